//! Somebody who signs tokens and publishes keys, in good faith or not; and a service that says what
//! it is told to say, whenever it is asked.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::certificates::rsa_key;

/// Signs tokens, as `joe`, for `api`.
pub(crate) struct Issuer {
    rsa: RsaKeyPair,
    curve: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    random: SystemRandom,
    /// What the names of its keys begin with.
    name: String,
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

impl Issuer {
    pub(crate) async fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rsa = rsa_key(folder.path()).await.serialize_der();
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let curve = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            rsa: RsaKeyPair::from_pkcs8(&rsa).unwrap(),
            curve: EcdsaKeyPair::from_pkcs8(algorithm, curve.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            random,
            name: name.to_owned(),
        }
    }

    fn rsa(&self) -> RsaPublicKeyComponents<Vec<u8>> {
        self.rsa.public().into()
    }

    /// Its public keys.
    pub(crate) fn keys(&self) -> Value {
        let rsa = self.rsa();
        let point = self.curve.public_key().as_ref();
        let id = |kind: &str| format!("{}-{kind}", self.name);
        json!({ "keys": [
            { "kty": "RSA", "use": "sig", "kid": id("rsa"), "n": base64(rsa.n), "e": base64(rsa.e) },
            { "kty": "EC", "crv": "P-256", "kid": id("curve"), "x": base64(&point[1..33]), "y": base64(&point[33..]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": id("ed"), "x": base64(self.ed.public_key().as_ref()) },
        ] })
    }

    /// What every token of it says besides these.
    pub(crate) fn claims(&self, more: &Value) -> Value {
        let mut claims = json!({ "iss": "joe", "aud": "api", "exp": now() + 3600 });
        let more = more.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(more);
        claims
    }

    /// A good token.
    pub(crate) fn token(&self, more: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": format!("{}-curve", self.name) });
        self.sign(&header, &self.claims(more))
    }

    /// A token with this header, signed as it says with whatever key is right for that.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            base64(header.to_string()),
            base64(claims.to_string())
        );
        let bytes = message.as_bytes();
        let rsa = |padding: &'static dyn ring::signature::RsaEncoding| {
            let mut signature = vec![0; self.rsa.public().modulus_len()];
            let signed = self.rsa.sign(padding, &self.random, bytes, &mut signature);
            signed.unwrap();
            signature
        };
        let signature = match header["alg"].as_str() {
            Some("RS256") => rsa(&RSA_PKCS1_SHA256),
            Some("PS256") => rsa(&RSA_PSS_SHA256),
            Some("EdDSA") => self.ed.sign(bytes).as_ref().to_vec(),
            // Whoever has the public key can make this one.
            Some("HS256") => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.rsa().n);
                ring::hmac::sign(&key, bytes).as_ref().to_vec()
            }
            Some("none") => Vec::new(),
            _ => {
                let signed = self.curve.sign(&self.random, bytes);
                signed.unwrap().as_ref().to_vec()
            }
        };
        format!("{message}.{}", base64(signature))
    }

    /// Writes its keys into a file, as a whole.
    pub(crate) fn publish(&self, path: &Path) {
        super::portolan::replace(path, &self.keys().to_string());
    }
}

/// What a service does when it is asked.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Says this, as it stands.
    Says(String),
    /// Says nothing, until it does something else.
    Stalls,
    /// Says this again and again, and never comes to an end.
    Drips(String, String),
    /// Closes the connection.
    HangsUp,
}

impl Does {
    /// An answer with a body.
    pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let mut text = format!(
            "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        Self::Says(text + "\r\n" + body)
    }
}

/// Does what it is told, and remembers what it was asked.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    does: watch::Sender<Does>,
    heard: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start(does: Does) -> Self {
        Self::with(does, None).await
    }

    pub(crate) async fn start_tls(does: Does, config: rustls::ServerConfig) -> Self {
        Self::with(does, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn with(does: Does, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let does = watch::Sender::new(does);
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let (told, hears) = (does.clone(), heard.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (does, heard, tls) = (told.subscribe(), hears.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => talk(stream, does, heard).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                talk(stream, does, heard).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            does,
            heard,
            serving,
        }
    }

    /// From now on it does this, also for those who wait.
    pub(crate) fn now(&self, does: Does) {
        self.does.send_replace(does);
    }

    /// The heads of all requests so far.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// How many there were.
    pub(crate) fn asked(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut does: watch::Receiver<Does>,
    heard: Arc<Mutex<Vec<String>>>,
) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let head: Vec<u8> = read.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        heard.lock().unwrap().push(head);
        let now = does
            .wait_for(|does| !matches!(does, Does::Stalls))
            .await
            .map(|does| does.clone());
        match now {
            Ok(Does::Says(text)) => {
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(Does::Drips(head, more)) => {
                let mut next = stream.write_all(head.as_bytes()).await;
                while next.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    next = stream.write_all(more.as_bytes()).await;
                }
                return;
            }
            Ok(Does::Stalls | Does::HangsUp) | Err(_) => return,
        }
    }
}
