//! The second-stage MMU for hypervisors.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod format;
#[allow(unsafe_code)]
pub mod host;
pub mod sync;
