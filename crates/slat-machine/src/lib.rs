//! The software machine that `slat` runs on where there is no second stage, and that holds it to account where there is.
//!
//! Guest memory is really there, and guest programs really read and write it, one OS thread for each vCPU, through that
//! vCPU's own TLB and a page walker written from the architecture's manual. The walkers share no code with
//! `slat::format`; the TLBs keep everything that hardware may keep until a flush covers it. So a missing flush, a wrong
//! level hint, a table freed too early or a lost dirty page becomes a wrong answer instead of luck.
//!
//! | module | what lives there |
//! |---|---|
//! | [`memory`] | guest memory, by the sources that KVM's selftests know, and how a host takes it back |
//! | [`physical`] | the physical address space, and the frames that tables live in |
//! | [`walk`] | page walkers |
//! | [`tlb`] | what a core caches |
//! | [`maintenance`] | TLB maintenance: by [`broadcast`] (arm64), and by [`request`] and acknowledgement (x86) |
//! | [`cpu`] | one core |
//! | [`machine`] | all of it, as the engine's host |
//! | [`vcpu`] | a core and the engine's vCPU, running guest programs |
//! | [`program`] | what guests do |
//! | [`copy`] | the far side of a live migration |
//! | [`trace`] | the engine's own steps, written down |
//! | [`checker`] | whether what was written down keeps the rules |
#![deny(unsafe_code)]

pub mod broadcast;
pub mod checker;
pub mod copy;
pub mod cpu;
#[cfg(test)]
mod explore;
pub mod machine;
pub mod maintenance;
#[allow(unsafe_code)]
mod mapping;
pub mod memory;
pub mod physical;
pub mod program;
pub mod request;
#[cfg(test)]
mod testing;
pub mod tlb;
pub mod trace;
pub mod vcpu;
pub mod walk;

pub use cpu::Cpu;
pub use machine::{Machine, MachineConfig, MachineError};
pub use vcpu::{FaultEntry, GuestError, Runner};
