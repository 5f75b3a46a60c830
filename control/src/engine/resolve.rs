//! Names of endpoints → addresses.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use portolan_config::plan::ResolverPlan;
use tokio::sync::Mutex;

/// Addresses of a name, and for how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedName {
    /// Every A and AAAA record, ascending. Never empty.
    pub addresses: Vec<IpAddr>,
    /// The shortest time to live among them.
    pub ttl: Duration,
}

/// A question under way.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<ResolvedName, String>> + Send + 'a>>;

/// Resolves names.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// Every address of a name.
    fn resolve<'a>(&'a self, host: &'a str, plan: &'a ResolverPlan) -> Resolving<'a>;
}

/// Asks name servers.
#[derive(Default)]
pub struct NameServers {
    /// The resolver for the last plan that was asked with.
    current: Mutex<Option<(ResolverPlan, Arc<TokioResolver>)>>,
}

impl fmt::Debug for NameServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameServers")
    }
}

impl NameServers {
    async fn resolver(&self, plan: &ResolverPlan) -> Result<Arc<TokioResolver>, String> {
        let mut current = self.current.lock().await;
        if let Some((for_plan, resolver)) = &*current
            && for_plan == plan
        {
            return Ok(resolver.clone());
        }
        let resolver = Arc::new(build(plan)?);
        *current = Some((plan.clone(), resolver.clone()));
        Ok(resolver)
    }
}

fn build(plan: &ResolverPlan) -> Result<TokioResolver, String> {
    let said = |error: hickory_resolver::net::NetError| error.to_string();
    let mut builder = if plan.servers.is_empty() {
        TokioResolver::builder_tokio().map_err(said)?
    } else {
        let servers = plan
            .servers
            .iter()
            .map(|address| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut server.connections {
                    connection.port = address.port();
                }
                server
            })
            .collect();
        TokioResolver::builder_with_config(
            ResolverConfig::from_parts(None, Vec::new(), servers),
            Default::default(),
        )
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = plan.timeout;
    options.attempts = 1;
    // The engine asks when an answer has run out, and wants a fresh one then.
    options.cache_size = 0;
    options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv4AndIpv6;
    builder.build().map_err(said)
}

impl Resolve for NameServers {
    fn resolve<'a>(&'a self, host: &'a str, plan: &'a ResolverPlan) -> Resolving<'a> {
        Box::pin(async move {
            let resolver = self.resolver(plan).await?;
            // A trailing dot says that the name is whole: search lists are for people.
            let name = if host.ends_with('.') {
                host.to_owned()
            } else {
                format!("{host}.")
            };
            let found = resolver
                .lookup_ip(name)
                .await
                .map_err(|error| error.to_string())?;
            // The same endpoint, whichever way its address is written.
            let mut addresses: Vec<IpAddr> = found.iter().map(|it| it.to_canonical()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            if addresses.is_empty() {
                return Err("no addresses".to_owned());
            }
            let ttl = found
                .valid_until()
                .saturating_duration_since(tokio::time::Instant::now().into_std());
            Ok(ResolvedName { addresses, ttl })
        })
    }
}
