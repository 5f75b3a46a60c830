// A client in Node.js: `node client.js URL`. Every method and size, by each of the ways that Node.js has,
// over connections that it keeps. Says what went wrong, as JSON.
"use strict";
const http = require("http");
const http2 = require("http2");

const base = process.argv[2];
const METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
const SIZES = [0, 1, 1000, 70000, 1 << 20];

const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
function byHttp(method, path, body) {
  return new Promise((done, failed) => {
    const request = http.request(base + path, { method, agent }, (response) => {
      const pieces = [];
      response.on("data", (piece) => pieces.push(piece));
      response.on("end", () => done({ status: response.statusCode, body: Buffer.concat(pieces) }));
      response.on("error", failed);
    });
    request.on("error", failed);
    request.end(body);
  });
}

async function byFetch(method, path, body) {
  const response = await fetch(base + path, { method, body });
  return { status: response.status, body: Buffer.from(await response.arrayBuffer()) };
}

let session;
function byHttp2(method, path, body) {
  session ??= http2.connect(base);
  return new Promise((done, failed) => {
    const stream = session.request({ ":method": method, ":path": path });
    const pieces = [];
    let status;
    stream.on("response", (headers) => (status = headers[":status"]));
    stream.on("data", (piece) => pieces.push(piece));
    stream.on("end", () => done({ status, body: Buffer.concat(pieces) }));
    stream.on("error", failed);
    stream.end(body);
  });
}

async function main() {
  let tried = 0;
  const failures = [];
  const expect = async (what, asking, holds) => {
    tried++;
    try {
      const answer = await asking;
      if (!holds(answer)) failures.push(`${what}: ${answer.status}, ${answer.body.length} bytes`);
    } catch (error) {
      failures.push(`${what}: ${error} ${error.cause ?? ""}`);
    }
  };
  for (const [name, ask] of Object.entries({ http: byHttp, fetch: byFetch, http2: byHttp2 })) {
    for (const method of METHODS) {
      const sizes = ["POST", "PUT", "PATCH"].includes(method) ? SIZES : [0];
      for (const size of sizes) {
        const body = size > 0 ? Buffer.alloc(size, "x") : undefined;
        await expect(`${name} ${method} ${size}`, ask(method, "/echo", body), (answer) => {
          if (answer.status !== 200 || method === "HEAD") return answer.status === 200;
          const seen = JSON.parse(answer.body);
          return seen.method === method && seen.body_bytes === size;
        });
      }
    }
    for (const size of SIZES) {
      await expect(`${name} /bytes ${size}`, ask("GET", `/bytes?count=${size}`), (answer) => {
        return answer.status === 200 && answer.body.length === size;
      });
    }
    for (const code of [204, 304, 404, 500]) {
      await expect(`${name} ${code}`, ask("GET", `/status?code=${code}`), (answer) => answer.status === code);
    }
    const many = Array.from({ length: 200 }, (_, at) =>
      expect(`${name} many`, ask(at % 2 ? "POST" : "GET", "/", at % 2 ? "once" : undefined), (answer) => answer.status === 200),
    );
    await Promise.all(many);
  }
  console.log(JSON.stringify({ tried, failures }));
  process.exit();
}
main();
