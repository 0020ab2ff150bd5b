//! The second-stage MMU for hypervisors.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod format;
#[allow(unsafe_code)]
pub mod host;
#[allow(unsafe_code)]
mod reclaim;
mod space;
pub mod sync;
#[allow(unsafe_code)]
mod table;
mod tlb;
pub mod vm;

pub use reclaim::OutOfMemory;
