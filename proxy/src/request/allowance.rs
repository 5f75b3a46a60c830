//! What the rate limits of a request tell its client.

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use portolan_config::plan::RateLimitPlan;
use portolan_control::auth::rate_limit::Allowance;

/// What limits tell a client.
#[derive(Debug, Default)]
pub(crate) struct RateLimitFields {
    limits: String,
    policies: String,
}

impl RateLimitFields {
    pub(crate) fn add(&mut self, plan: &RateLimitPlan, allowance: &Allowance) {
        if !self.limits.is_empty() {
            self.limits.push_str(", ");
            self.policies.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write!(
            self.limits,
            "\"{}\";r={};t={}",
            plan.name,
            allowance.left,
            seconds(allowance.reset)
        );
        let _ = write!(self.policies, "\"{}\";q={}", plan.name, plan.requests);
        // Whole seconds are all that the field can say.
        if plan.per.subsec_nanos() == 0 {
            let _ = write!(self.policies, ";w={}", plan.per.as_secs());
        }
    }

    /// The fields that say it.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        [
            (RATELIMIT, &self.limits),
            (RATELIMIT_POLICY, &self.policies),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?)))
    }
}

/// What is left of limits: a list of strings, each with `r` (requests that are left) and `t` (seconds),
/// as in draft-ietf-httpapi-ratelimit-headers-11, section 4.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What the limits are: a list of strings, each with `q` (requests) and, if it is whole seconds, `w` (the
/// time they are for), as in section 3 there.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_config::plan::LimitKeyPlan;

    use super::*;

    #[test]
    fn limits_are_told_in_the_words_of_the_draft() {
        let plan = |name: &str, per| RateLimitPlan {
            name: name.into(),
            requests: 100,
            per,
            burst: 50,
            on: LimitKeyPlan::ClientIp,
            headers: true,
            clients: 64,
        };
        let allowance = Allowance {
            left: 49,
            reset: Duration::from_millis(1_001),
            refused: false,
        };
        let mut told = RateLimitFields::default();
        told.add(&plan("each", Duration::from_secs(60)), &allowance);
        told.add(&plan("fast", Duration::from_millis(500)), &allowance);
        let fields: Vec<(HeaderName, HeaderValue)> = told.fields().collect();
        assert_eq!(fields[0].0, "ratelimit");
        assert_eq!(fields[0].1, "\"each\";r=49;t=2, \"fast\";r=49;t=2");
        assert_eq!(fields[1].0, "ratelimit-policy");
        assert_eq!(fields[1].1, "\"each\";q=100;w=60, \"fast\";q=100");
    }
}
