//! The privileged instructions that a second-stage MMU needs, and the values that they take: what an embedder's
//! [`Tlb`](slat::host::Tlb) issues, what its control registers hold, and what the CPU says that it can do.
//!
//! One module an architecture. What is pure (operands, register values, what a syndrome says) compiles, and is tested, on
//! any machine; the instructions exist where the target is that architecture. riscv64 and x86-64 are modules to come.
//!
//! Nothing here decides anything: when to flush is the engine's to say, on which CPU the embedder's.

#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod aarch64;
