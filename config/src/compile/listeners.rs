//! Listeners and logs.

use crate::compile::acme;
use std::sync::Arc;

use crate::compile::files::file;
use crate::compile::routes::access;
use crate::document::{AccessLog, Certificate, ClientAuth, Document, Listener};
use crate::plan::{
    AccessLogPlan, CertificateFiles, CertificateSource, ClientAuthPlan, LimitsPlan, ListenerPlan,
    ListenerTlsPlan, LocationTable, LogSink,
};
use crate::source::{At, Sources};

pub(crate) fn listener(
    document: &Document,
    listener: &Listener,
    sources: &Sources,
    locations: &Arc<LocationTable>,
) -> ListenerPlan {
    let limits = &listener.limits;
    ListenerPlan {
        bind: listener.bind.value,
        origin: listener.bind.origin,
        redirect_to_https: listener.redirect_to_https.value,
        access: access(
            listener.allow.as_deref(),
            listener.deny.as_deref(),
            locations,
        ),
        tls: listener.tls.as_ref().map(|tls| ListenerTlsPlan {
            certificates: tls
                .certificates
                .iter()
                .filter_map(|certificate| certificate_source(document, certificate, sources))
                .collect(),
            managed: tls
                .certificates
                .iter()
                .filter_map(|certificate| acme::managed(document, certificate, sources))
                .collect(),
            profile: tls.profile.value,
            min_version: tls.min_version.value,
            client: tls.client_ca.as_ref().map(|ca| ClientAuthPlan {
                ca: file(ca, sources),
                crl: tls.client_crl.as_ref().map(|crl| file(crl, sources)),
                optional: tls
                    .client_auth
                    .as_ref()
                    .is_some_and(|auth| auth.value == ClientAuth::Optional),
            }),
        }),
        proxy_protocol: listener.proxy_protocol.value,
        limits: LimitsPlan {
            header_bytes: limits.header_bytes.value.bytes() as usize,
            headers: limits.headers.value.get() as usize,
            header_timeout: limits.header_timeout.value.duration(),
            idle_timeout: limits.idle_timeout.value.duration(),
            body_bytes: limits.body_bytes.as_ref().map(|size| size.value.bytes()),
            connections: limits.connections.value.get() as usize,
            connections_per_client: limits
                .connections_per_client
                .as_ref()
                .map(|count| count.value.get() as usize),
            requests_per_connection: limits
                .requests_per_connection
                .as_ref()
                .map(|count| u64::from(count.value.get())),
            uri_bytes: limits.uri_bytes.value.bytes() as usize,
            min_body_rate: limits.min_body_rate.on().map(|size| size.value.bytes()),
        },
    }
}

fn certificate_source(
    document: &Document,
    certificate: &Certificate,
    sources: &Sources,
) -> Option<CertificateSource> {
    if let Some(issuer) = &certificate.acme {
        let managed = acme::managed(document, certificate, sources)?;
        return Some(CertificateSource::Directory {
            path: At::new(managed.folder, issuer.origin),
            awaited: true,
        });
    }
    if let Some(directory) = &certificate.directory {
        return Some(CertificateSource::Directory {
            path: file(directory, sources),
            awaited: false,
        });
    }
    let cert = certificate.cert.as_ref()?;
    Some(CertificateSource::Pair(CertificateFiles {
        cert: file(cert, sources),
        key: file(certificate.key.as_ref().unwrap_or(cert), sources),
        ocsp: certificate.ocsp.as_ref().map(|ocsp| file(ocsp, sources)),
    }))
}

pub(crate) fn access_log(log: &AccessLog, sources: &Sources) -> AccessLogPlan {
    AccessLogPlan {
        to: match log.to.value.as_str() {
            "stdout" => LogSink::Stdout,
            "stderr" => LogSink::Stderr,
            path => LogSink::File(sources.resolve(log.to.origin, path.as_ref())),
        },
        sample: log.sample.value.fraction(),
    }
}
