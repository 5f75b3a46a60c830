//! The kinds of problems, each with a short name that stays the same from release to release.

macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $text:literal ),* $(,)?) => {
        /// Which kind of problem a diagnostic is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code { $( $(#[doc = $doc])+ $variant ),* }

        impl Code {
            /// Every code, in the order of the reference page.
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),* ];

            /// The name shown to users: `error[unknown-key]`.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text ),* }
            }

            /// What it means, for the reference page.
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+).trim_ascii() ),* }
            }
        }
    };
}

codes! {
    /// The file cannot be opened or is not UTF-8.
    Unreadable = "unreadable",
    /// A file that somebody is writing just now.
    BeingWritten = "being-written",
    /// The text is not YAML.
    Syntax = "syntax",
    /// A key stands twice in one mapping.
    DuplicateKey = "duplicate-key",
    /// A key that this place does not have.
    UnknownKey = "unknown-key",
    /// A key that has another name by now: it is still understood.
    RenamedKey = "renamed-key",
    /// A key whose behaviour this version of Portolan does not have yet.
    NotAvailableYet = "not-available-yet",
    /// A key that must be there is not.
    MissingKey = "missing-key",
    /// A key, or an item of a list, with nothing behind it. It could mean none, all, or the default, and
    /// a file that was cut off ends like that: so it means nothing.
    NothingGiven = "nothing-given",
    /// A value of another kind than the key takes: a list where a text belongs, and the like.
    WrongType = "wrong-type",
    /// A value of the right kind that says something impossible.
    BadValue = "bad-value",
    /// A duration or a size without a unit, or with an unknown one.
    BadUnit = "bad-unit",
    /// A `${…}` that cannot be filled in.
    Expansion = "expansion",
    /// A file pattern of `include` that matches nothing or goes round in a circle.
    Include = "include",
    /// A pool, service or route name that nothing has.
    UnknownName = "unknown-name",
    /// Two things with one name.
    DuplicateName = "duplicate-name",
    /// Two routes that the same requests would match.
    DuplicateRoute = "duplicate-route",
    /// Two listeners, or a listener and the admin API, on one address.
    DuplicateAddress = "duplicate-address",
    /// A service that leads back to itself.
    Cycle = "cycle",
    /// A tier that can never get traffic because all its pools stand in earlier tiers.
    UselessTier = "useless-tier",
    /// A `geo` without the rule for everybody else, or with rules behind it.
    GeoCatchAll = "geo-catch-all",
    /// Weights that add up to nothing.
    ZeroWeights = "zero-weights",
    /// A cloud region that the cloud does not have.
    UnknownRegion = "unknown-region",
    /// A pool without coordinates where distance decides.
    NoCoordinates = "no-coordinates",
    /// A pool without `capacity` where free capacity decides.
    NoCapacity = "no-capacity",
    /// A rule that needs a database which is not configured.
    NeedsDatabase = "needs-database",
    /// A target that distinguishes more kinds of clients than can be prepared for.
    TooManyClientClasses = "too-many-client-classes",
    /// An admin API beyond loopback without tokens.
    AdminExposed = "admin-exposed",
    /// A certificate, key or CA file that cannot be used.
    Certificate = "certificate",
    /// A certificate, or a list of revoked ones, that is out of date or soon will be.
    CertificateExpiry = "certificate-expiry",
    /// A geo database that cannot be used.
    GeoDatabase = "geo-database",
    /// Something that a running process cannot change about itself.
    NeedsRestart = "needs-restart",
    /// An address that cannot be listened on.
    CannotBind = "cannot-bind",
    /// A test in the file that failed.
    TestFailed = "test-failed",
    /// A weight of 0: the member gets no traffic.
    WeightZero = "weight-zero",
    /// A pool that no route, service or test leads to.
    UnusedPool = "unused-pool",
    /// A service that no route leads to.
    UnusedService = "unused-service",
    /// A probe that may still be running when the next one is due.
    ProbeOverlap = "probe-overlap",
    /// Probes that can take longer to notice a dead endpoint than a route's `rto` allows.
    Rto = "rto",
    /// More healthy endpoints asked for than the pool has.
    MinHealthy = "min-healthy",
    /// A rule that never matches, or never gets a request.
    Unreachable = "unreachable",
    /// Something that changes nothing where it stands.
    NoEffect = "no-effect",
    /// Upgrades (WebSocket) are meant for a pool that speaks HTTP/2 alone, where endpoints have to offer
    /// extended CONNECT.
    UpgradesNeedConnect = "upgrades-need-connect",
    /// Certificates of endpoints are not verified.
    Insecure = "insecure",
    /// Keys of tokens that cannot be used.
    TokenKeys = "token-keys",
    /// Tokens that were meant for somebody else, or come from anybody, are believed.
    TokenForAnybody = "token-for-anybody",
    /// A challenge that the certificate authority may not be able to see answered.
    AcmeReach = "acme-reach",
    /// An issuer that no certificate names.
    UnusedIssuer = "unused-issuer",
    /// Nothing to serve: no listeners, or no routes.
    NothingToServe = "nothing-to-serve",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_kebab_case() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.meaning().ends_with('.')));
    }
}
