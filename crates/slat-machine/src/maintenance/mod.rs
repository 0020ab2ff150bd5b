//! How cores are told to drop what they cache: by broadcast on arm64, by request and acknowledgement on x86 and
//! RISC-V.
//!
//! What both have in common is here: flushes have numbers (*tickets*), each core has a word that says how many it has
//! seen and whether it is inside of its guest, and whoever flushes waits for cores that are inside and have not seen
//! enough.

mod post;

use std::fmt;

use slat::addr::Gpa;
use slat::host::{Flush, Hint};

pub(crate) use self::post::{Post, State};
use crate::broadcast::{self, Broadcast};
use crate::request::{self, Requests};

/// How an architecture's TLBs are told that tables were changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maintenance {
    /// An instruction reaches every core, with an address and a level (arm64: TLBI by IPA, inner shareable).
    Broadcast,
    /// Software interrupts every core that is in its guest, and each drops everything itself (x86: INVEPT of one
    /// context, which takes no address; RISC-V: HFENCE.GVMA of a VMID).
    Request,
}

/// How many flushes the engine has asked for, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlushCounts {
    /// Of leaves in a range.
    pub leaves: u64,
    /// Of a range with its walk caches.
    pub tables: u64,
    /// Of everything.
    pub all: u64,
    /// Of one page on the flushing core alone.
    pub local: u64,
}

impl std::ops::Sub for FlushCounts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            leaves: self.leaves - earlier.leaves,
            tables: self.tables - earlier.tables,
            all: self.all - earlier.all,
            local: self.local - earlier.local,
        }
    }
}

/// What flushing by request has come to; all zero where flushes are broadcast.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestCounts {
    /// Interrupts sent to cores that were in their guest.
    pub sent: u64,
    /// Times that a core was sent nothing: it was out of its guest, or knew already.
    pub skipped: u64,
    /// Interrupts that took a core out of its guest; several that were sent may have become one.
    pub acknowledged: u64,
    /// Times that a core dropped everything it had cached (INVEPT), each time before it entered its guest.
    pub invalidations: u64,
}

/// A flush on its way: complete when every core has seen more than this ticket or is out of its guest.
#[must_use = "a flush is complete only after it was waited for"]
#[derive(Debug)]
pub struct Pending {
    pub(crate) ticket: u64,
}

/// The cores' ways to be told, of whichever kind.
pub(crate) enum Cores {
    Broadcast(Broadcast),
    Request(Requests),
}

impl Cores {
    pub(crate) fn new(maintenance: Maintenance, cores: u32) -> Self {
        match maintenance {
            Maintenance::Broadcast => Self::Broadcast(Broadcast::new(cores)),
            Maintenance::Request => Self::Request(Requests::new(cores)),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        match self {
            Self::Broadcast(broadcast) => broadcast.cores(),
            Self::Request(requests) => requests.cores(),
        }
    }

    pub(crate) fn post(&self, flush: Flush) -> Pending {
        match self {
            Self::Broadcast(broadcast) => broadcast.post(flush),
            Self::Request(requests) => requests.post(flush),
        }
    }

    pub(crate) fn wait(&self, pending: &Pending) {
        match self {
            Self::Broadcast(broadcast) => broadcast.wait(pending),
            Self::Request(requests) => requests.wait(pending),
        }
    }

    pub(crate) fn post_local(&self, core: u32, page: Gpa, level: Hint) {
        match self {
            Self::Broadcast(broadcast) => broadcast.post_local(core, page, level),
            Self::Request(requests) => requests.post_local(core, page),
        }
    }

    pub(crate) fn counts(&self) -> FlushCounts {
        match self {
            Self::Broadcast(broadcast) => broadcast.counts(),
            Self::Request(requests) => requests.counts(),
        }
    }

    pub(crate) fn requests(&self) -> RequestCounts {
        match self {
            Self::Broadcast(_) => RequestCounts::default(),
            Self::Request(requests) => requests.requests(),
        }
    }

    pub(crate) fn attach(&self, core: u32) -> Attached<'_> {
        match self {
            Self::Broadcast(broadcast) => Attached::Broadcast(broadcast.attach(core)),
            Self::Request(requests) => Attached::Request(requests.attach(core)),
        }
    }
}

impl fmt::Debug for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broadcast(broadcast) => broadcast.fmt(f),
            Self::Request(requests) => requests.fmt(f),
        }
    }
}

/// A core, driven by the thread that holds this.
#[derive(Debug)]
pub(crate) enum Attached<'m> {
    Broadcast(broadcast::Attached<'m>),
    Request(request::Attached<'m>),
}

impl Attached<'_> {
    /// Goes on inside of the guest, with one access; what has to be dropped before it is handed to `apply`.
    #[inline]
    pub(crate) fn enter(&mut self, apply: impl FnMut(Flush)) {
        match self {
            Self::Broadcast(core) => core.enter(apply),
            Self::Request(core) => core.enter(apply),
        }
    }

    /// The access is over.
    #[inline]
    pub(crate) fn leave(&mut self) {
        match self {
            Self::Broadcast(core) => core.leave(),
            Self::Request(core) => core.leave(),
        }
    }

    /// The core comes out of its guest, and waits for nothing that others wait for.
    pub(crate) fn exit(&mut self) {
        match self {
            Self::Broadcast(core) => core.leave(),
            Self::Request(core) => core.exit(),
        }
    }

    /// Whether the core stays in its guest between accesses, where the architecture lets it.
    pub(crate) fn remain(&mut self, remain: bool) {
        match self {
            // Every access is a stay of its own.
            Self::Broadcast(_) => {}
            Self::Request(core) => core.remain(remain),
        }
    }
}
