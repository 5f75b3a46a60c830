//! Where a route sends clients instead of serving them.

use std::sync::Arc;

/// The address that clients are sent to, made of the one they have asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectPlan {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`; the client's own without it.
    pub scheme: Option<&'static str>,
    /// The host, with its port; the client's own without it.
    pub host: Option<Arc<str>>,
    /// What becomes of the path.
    pub path: RedirectPath,
    /// Whether the query stays.
    pub keep_query: bool,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    /// It stays.
    Keep,
    /// It is this one.
    Whole(Arc<str>),
    /// What the route has matched of it is replaced. Both without a slash at their end.
    Prefix {
        /// What the route matches.
        old: Arc<str>,
        /// What stands there afterwards.
        new: Arc<str>,
    },
}

impl RedirectPlan {
    /// The address that a request for this one is sent to. Whatever it is made of, host and path cannot
    /// be taken for each other: a path begins with a slash.
    pub fn location(&self, scheme: &str, host: &str, path: &str, query: Option<&str>) -> String {
        let scheme = self.scheme.unwrap_or(scheme);
        let host = self.host.as_deref().unwrap_or(host);
        let mut to = format!("{scheme}://{host}");
        match &self.path {
            RedirectPath::Keep => to.push_str(path),
            RedirectPath::Whole(path) => to.push_str(path),
            RedirectPath::Prefix { old, new } => {
                to.push_str(new);
                match path.strip_prefix(&**old) {
                    Some(rest) if rest.starts_with('/') => to.push_str(rest),
                    // The prefix alone, or a route that matched otherwise.
                    _ if new.is_empty() => to.push('/'),
                    _ => {}
                }
            }
        }
        if let Some(query) = query.filter(|_| self.keep_query) {
            to.push('?');
            to.push_str(query);
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(path: RedirectPath) -> RedirectPlan {
        RedirectPlan {
            status: 307,
            scheme: None,
            host: None,
            path,
            keep_query: true,
        }
    }

    fn prefix(old: &str, new: &str) -> RedirectPath {
        RedirectPath::Prefix {
            old: old.into(),
            new: new.into(),
        }
    }

    #[test]
    fn what_is_not_said_stays() {
        let keep = plan(RedirectPath::Keep);
        let to = |plan: &RedirectPlan, path, query| plan.location("https", "a:1", path, query);
        assert_eq!(to(&keep, "/x", Some("y=//z")), "https://a:1/x?y=//z");
        assert_eq!(
            to(&keep, "//evil.example/x", None),
            "https://a:1//evil.example/x"
        );
        let moved = RedirectPlan {
            scheme: Some("http"),
            host: Some("b".into()),
            keep_query: false,
            ..keep
        };
        assert_eq!(to(&moved, "/x", Some("y")), "http://b/x");
        let whole = plan(RedirectPath::Whole("/new".into()));
        assert_eq!(to(&whole, "/x/y", Some("q")), "https://a:1/new?q");
    }

    #[test]
    fn prefixes_are_replaced_by_whole_segments() {
        for (old, new, path, expected) in [
            ("/old", "/new", "/old/x", "/new/x"),
            ("/old", "/new", "/old", "/new"),
            ("/old", "/new", "/old/", "/new/"),
            ("/old", "", "/old/x", "/x"),
            ("/old", "", "/old", "/"),
            ("", "/new", "/x", "/new/x"),
            ("", "/new", "/", "/new/"),
        ] {
            let to = plan(prefix(old, new)).location("http", "a", path, None);
            assert_eq!(to, format!("http://a{expected}"), "{old} {new} {path}");
        }
    }
}
