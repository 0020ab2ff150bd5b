//! What all performance tests share: a machine with a VM and its vCPU threads, the parameters of that, and how runs are
//! repeated and compared.

pub(crate) mod compare;
pub(crate) mod guest;
pub(crate) mod json;
pub(crate) mod manager;
pub(crate) mod rig;
pub(crate) mod runs;
pub(crate) mod setting;
pub(crate) mod time;

/// Bytes in a page of the host's.
pub(crate) const PAGE: u64 = slat_machine::memory::PAGE_SIZE;
