// An endpoint in Node.js: `node endpoint.js WIRE PORT [CERT KEY]`. It answers like the harness's own
// origin: /echo says what it got, /bytes gives so many bytes, /events sends events, /status a status.
"use strict";
const http = require("http");
const https = require("https");
const http2 = require("http2");
const fs = require("fs");
const crypto = require("crypto");

const [wire, port, cert, key] = process.argv.slice(2);

const pattern = Buffer.from(Array.from({ length: 251 * 256 }, (_, at) => at % 251));

function bytes(response, count) {
  response.setHeader("content-length", count);
  let left = count;
  const more = () => {
    while (left > 0) {
      const piece = pattern.subarray(0, Math.min(left, pattern.length));
      left -= piece.length;
      if (!response.write(piece)) return response.once("drain", more);
    }
    response.end();
  };
  more();
}

function events(response, count, every) {
  response.setHeader("content-type", "text/event-stream");
  let number = 0;
  const next = () => {
    if (number === count) return response.end();
    response.write(`data: ${number++}\n\n`);
    setTimeout(next, every);
  };
  next();
}

function answer(request, response) {
  const url = new URL(request.url, "http://endpoint");
  const wanted = (name) => Number(url.searchParams.get(name));
  let length = 0;
  request.on("data", (piece) => (length += piece.length));
  request.on("end", () => {
    response.setHeader("x-origin", "node");
    if (url.pathname === "/echo") {
      response.setHeader("content-type", "application/json");
      const headers = {};
      for (const [name, value] of Object.entries(request.headers)) {
        if (!name.startsWith(":")) headers[name] = String(value);
      }
      const seen = {
        origin: "node",
        method: request.method,
        target: request.url,
        version: request.httpVersionMajor === 2 ? "2" : request.httpVersion,
        headers,
        body_bytes: length,
      };
      response.end(JSON.stringify(seen));
    } else if (url.pathname === "/bytes") {
      bytes(response, wanted("count"));
    } else if (url.pathname === "/events") {
      events(response, wanted("count"), wanted("ms"));
    } else if (url.pathname === "/status") {
      response.statusCode = wanted("code");
      response.end();
    } else if (url.pathname === "/page") {
      // For a browser: what it runs, and below what became of that. Both are beside where this was started.
      response.setHeader("content-type", "text/html; charset=utf-8");
      response.end(fs.readFileSync("page.html"));
    } else {
      response.end("node");
    }
  });
  if (url.pathname === "/result") {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
      fs.writeFileSync("result.part", Buffer.concat(pieces));
      fs.renameSync("result.part", "result.json");
    });
  }
}

// WebSocket (RFC 6455), as much of it as echoes short messages.
function chat(request, socket) {
  const accept = crypto
    .createHash("sha1")
    .update(request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
    .digest("base64");
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  let seen = Buffer.alloc(0);
  socket.on("data", (piece) => {
    seen = Buffer.concat([seen, piece]);
    while (seen.length >= 6 && seen.length >= 6 + (seen[1] & 127)) {
      const length = seen[1] & 127;
      const payload = Buffer.from(seen.subarray(6, 6 + length));
      for (let at = 0; at < length; at++) payload[at] ^= seen[2 + (at % 4)];
      socket.write(Buffer.concat([Buffer.from([seen[0], length]), payload]));
      if ((seen[0] & 15) === 8) return socket.end();
      seen = seen.subarray(6 + length);
    }
  });
  socket.on("error", () => {});
}

const tls = () => ({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) });
const servers = {
  http1: () => http.createServer(answer),
  tls1: () => https.createServer(tls(), answer),
  h2c: () => http2.createServer(answer),
  tls2: () => http2.createSecureServer(tls(), answer),
};
const server = servers[wire]();
server.on("upgrade", chat);
server.listen(Number(port), "127.0.0.1");
