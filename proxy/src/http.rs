//! HTTP as it stands on a connection, whoever's it is: heads, bodies, frames, and what they are written
//! and read with.

pub(crate) mod buffer_pool;
pub(crate) mod field_names;
pub(crate) mod grpc;
pub(crate) mod head;
pub(crate) mod held;
pub(crate) mod hop_by_hop;
pub(crate) mod host;
pub(crate) mod http1;
pub(crate) mod http2_frames;
pub(crate) mod request_id;
pub(crate) mod token_bucket;
pub(crate) mod trailers;
pub(crate) mod write_buffer;
