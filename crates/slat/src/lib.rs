//! The second-stage MMU for hypervisors: the part that owns the tables which turn guest physical addresses into host
//! physical ones, serves the guest's faults, tracks dirty pages for live migration, and takes memory back.
//!
//! No operation takes a VM-wide lock. Faults, harvests of the dirty log, protection, unmapping, invalidation, changes of
//! slots and teardown run beside one another; the unit of mutual exclusion is one table entry.
//!
//! # What an embedder writes
//!
//! A [`Host`](host::Host) in three parts: [`TableMemory`](host::TableMemory) (frames for tables, and the cast from a
//! table's address to its words), [`Backing`](host::Backing) (which host memory lies behind a slot, now) and
//! [`Tlb`](host::Tlb) (flushes). `examples/embed.rs` is a complete one in 150 lines; this is the same in the small, for a
//! guest whose memory is one aligned piece, on a machine without TLBs:
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use slat::addr::{Gpa, GpaRange, HostAddress, Hpa, Level};
//! use slat::host::*;
//!
//! /// "Physical" addresses are addresses of this process.
//! struct Embedder;
//!
//! // SAFETY: tables are zeroed, aligned, and leaked rather than freed: they stay what they are.
//! unsafe impl TableMemory for Embedder {
//!     type Atomics = slat::sync::Core;
//!     fn allocate(&self, tables: usize) -> Option<Hpa> {
//!         #[repr(align(65536))]
//!         struct Tables([u64; 8192]);
//!         assert!(tables <= 16);
//!         let tables: &'static mut Tables = Box::leak(Box::new(Tables([0; 8192])));
//!         Some(Hpa::new((&raw mut *tables).expose_provenance() as u64))
//!     }
//!     unsafe fn free(&self, _table: Hpa, _tables: usize) {}
//!     unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
//!         let words = core::ptr::with_exposed_provenance(table.get() as usize);
//!         // SAFETY: the engine names tables it got from `allocate`.
//!         unsafe { core::slice::from_raw_parts(words, 512) }
//!     }
//! }
//!
//! impl Backing for Embedder {
//!     /// The slot's host address plus the page's offset is where the page lies.
//!     fn translate(&self, request: Request) -> Translation {
//!         let offset = request.host.get() & 0x1f_ffff;
//!         Translation::Run(Run {
//!             guest: GpaRange::with_len(Gpa::new(request.gpa.get() - offset), 2 << 20).unwrap(),
//!             hpa: Hpa::new(request.host.get() - offset),
//!             largest: Level::new(1),
//!             permissions: Permissions::ALL,
//!             memory: MemoryType::Normal,
//!         })
//!     }
//! }
//!
//! impl Tlb for Embedder {
//!     type Pending = ();
//!     fn flush(&self, _flush: Flush) {}
//!     fn wait(&self, (): ()) {}
//!     fn flush_local(&self, _vcpu: VcpuId, _page: Gpa, _level: Hint) {}
//!     fn relax(&self) {}
//! }
//!
//! // One VM; a worker for its slots; a handle for each vCPU.
//! use slat::vm::{Budget, Config, LogMode, NewSlot, Outcome, Pages, SlotFlags, Vcpu, Vm, Worker};
//! let vm = Vm::new(Embedder, slat::format::Arm64::new(40)?, Config::default())?;
//! let mut worker = Worker::new(&vm)?;
//! let range = GpaRange::with_len(Gpa::new(0x4000_0000), 4 << 20).unwrap();
//! let slot = NewSlot { range, host: HostAddress::new(1 << 30), flags: SlotFlags::default() };
//! worker.create_slot(SlotId(0), slot)?;
//!
//! // The vCPU's exit handler: tables are carried, so that no fault allocates.
//! let mut vcpu = Vcpu::new(&vm, VcpuId(0))?;
//! vcpu.top_up(vcpu.tables_per_fault())?;
//! let outcome = vcpu.fault(Gpa::new(0x4000_1000), Access::Read);
//! assert_eq!(outcome, Outcome::Mapped { level: Level::new(1), writable: true });
//!
//! // Live migration: turn the log on, let the guest write, take what it wrote.
//! let logged = SlotFlags { log: Some(LogMode::Protect), ..SlotFlags::default() };
//! while !worker.set_flags(SlotId(0), logged, Budget::entries(4096))?.is_done() {}
//! vcpu.top_up(vcpu.tables_per_fault())?;
//! assert_eq!(vcpu.fault(Gpa::new(0x4000_1000), Access::Write), Outcome::Relaxed { level: Level::PAGE });
//! let mut bitmap = [0; 16];
//! let pages = Pages { first: 0, count: 1024 };
//! let harvest = worker.harvest(SlotId(0), pages, &mut bitmap, Budget::UNLIMITED)?;
//! assert!(harvest.complete && bitmap[0] == 0b10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What runs beside what
//!
//! Everything beside everything, with two exceptions that answer rather than wait: slots have one writer at a time (the
//! others get [`SlotError::Busy`](vm::SlotError::Busy)), and after [`Worker::teardown`](vm::Worker::teardown) has begun
//! all else answers `Gone`.
//!
//! # What the engine needs
//!
//! `core` and `alloc`. The allocator is used when a VM, a slot or a log is made, fallibly, and never by a fault.

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
