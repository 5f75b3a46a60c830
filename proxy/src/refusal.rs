//! Requests that Portolan answers itself: the table of reasons stands where they are counted.

pub(crate) use portolan_control::refusal::Refusal;
