//! What is said in the log about certificates that look after themselves.

use std::fmt;
use std::time::Duration;

use portolan_certs::acme::Moment;
use portolan_certs::acme::renewal::Level;
use portolan_config::plan::ManagedCertificate;

/// Something an operator wants to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// There is a new certificate, and it is in use.
    Issued {
        /// Which.
        certificate: ManagedCertificate,
        /// Until when it is good.
        until: Moment,
        /// When this is said.
        now: Moment,
    },
    /// There is no new certificate.
    NotIssued {
        /// Which.
        certificate: ManagedCertificate,
        /// How bad that is.
        level: Level,
        /// Why, if an order failed.
        error: Option<String>,
        /// Until when the one before is good, if there is one.
        until: Option<Moment>,
        /// When it is tried again.
        again: Duration,
        /// When this is said.
        now: Moment,
    },
}

impl Said {
    /// Its kind, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Issued { .. } => "certificate_issued",
            Self::NotIssued { .. } => "certificate_not_issued",
        }
    }

    /// What it is about.
    pub(crate) fn subject(&self) -> String {
        let (Self::Issued { certificate, .. } | Self::NotIssued { certificate, .. }) = self;
        format!("certificate {certificate}")
    }

    /// Why, where that is known.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::Issued { .. } => None,
            Self::NotIssued { error, .. } => error.clone(),
        }
    }

    /// Writes the log line.
    pub(crate) fn emit(&self) {
        match self {
            Self::Issued { .. } => tracing::info!("{self}"),
            Self::NotIssued { level, .. } if *level <= Level::Failing => tracing::warn!("{self}"),
            Self::NotIssued { .. } => tracing::error!("{self}"),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issued {
                certificate,
                until,
                now,
            } => write!(
                f,
                "{} issued a certificate for {certificate}, good for {}",
                certificate.issuer,
                Span(until.since(*now))
            ),
            Self::NotIssued {
                certificate,
                level,
                error,
                until,
                again,
                now,
            } => {
                write!(
                    f,
                    "no new certificate for {certificate} from {}",
                    certificate.issuer
                )?;
                if let Some(error) = error {
                    write!(f, ": {error}")?;
                }
                match (until, level) {
                    (None, _) => f.write_str("; there is none yet")?,
                    (Some(_), Level::Expired) => f.write_str("; the one before has expired")?,
                    (Some(until), _) => {
                        write!(
                            f,
                            "; the one before is good for {}",
                            Span(until.since(*now))
                        )?;
                    }
                }
                match again.is_zero() {
                    true => f.write_str("; trying now"),
                    false => write!(f, "; trying again in {}", Span(*again)),
                }
            }
        }
    }
}

/// A span as people say it.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..120 => write!(f, "{} s", self.0.as_secs_f64().ceil()),
            120..7_200 => write!(f, "{} minutes", seconds / 60),
            7_200..172_800 => write!(f, "{} hours", seconds / 3_600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::names::Name;
    use portolan_config::scalar::FromScalar as _;

    #[test]
    fn a_line_says_what_why_how_long_and_when_again() {
        let now = Moment::from_seconds(1_000_000);
        let certificate = ManagedCertificate {
            issuer: Name::parse("letsencrypt").unwrap(),
            names: ["a.example".to_owned(), "b.example".to_owned()].into(),
            folder: "/state".into(),
        };
        let issued = Said::Issued {
            certificate: certificate.clone(),
            until: now + Duration::from_secs(90 * 86_400),
            now,
        };
        assert_eq!(
            issued.to_string(),
            "letsencrypt issued a certificate for a.example, b.example, good for 90 days"
        );
        let failed = Said::NotIssued {
            certificate: certificate.clone(),
            level: Level::Failing,
            error: Some("no answer within 30 s".to_owned()),
            until: Some(now + Duration::from_secs(10 * 86_400)),
            again: Duration::from_secs(600),
            now,
        };
        assert_eq!(
            failed.to_string(),
            "no new certificate for a.example, b.example from letsencrypt: no answer within 30 s; \
             the one before is good for 10 days; trying again in 10 minutes"
        );
        let never = Said::NotIssued {
            certificate,
            level: Level::Urgent,
            error: None,
            until: None,
            again: Duration::ZERO,
            now,
        };
        assert!(
            never
                .to_string()
                .ends_with("; there is none yet; trying now")
        );
    }
}
