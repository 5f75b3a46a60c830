//! Dense ids: what the runtime finds things by.

macro_rules! ids {
    ($( $(#[doc = $doc:literal])+ $name:ident ),* $(,)?) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            /// The id of the thing at this index.
            pub const fn new(index: usize) -> Self {
                Self(index as u32)
            }

            /// As an index.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    )* };
}

ids! {
    /// A pool, as an index into [`Plan::pools`](super::Plan::pools).
    PoolId,
    /// A service, as an index into [`Plan::services`](super::Plan::services).
    ServiceId,
    /// A route, as an index into [`Plan::routes`](super::Plan::routes).
    RouteId,
    /// A distinct target, as an index into [`Plan::targets`](super::Plan::targets).
    TargetId,
}
