//! What Portolan answers by itself, and what it adds to answers of endpoints.

pub(crate) mod browser;
pub(crate) mod denial;
pub(crate) mod expose;
pub(crate) mod last_hop;
pub(crate) mod redirect;
pub(crate) mod reply;
