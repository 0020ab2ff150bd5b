//! Memory mapped from the host, seen as atomic words: the machine's only raw memory.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

/// What the host is asked to put behind a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backed {
    /// Private zeroed pages, no huge ones.
    Pages,
    /// Private zeroed pages, made huge where the host can.
    TransparentHugePages,
    /// Private reserved huge pages of so many bytes.
    HugePages(u64),
    /// Pages of an unnamed shared file.
    SharedPages,
    /// Reserved huge pages, of so many bytes, of an unnamed shared file.
    SharedHugePages(u64),
}

/// Zeroed memory of the host's, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: the mapping is reached through `words` only, as atomics, which any thread may use; `base` is not tied to the
// thread that mapped it.
unsafe impl Send for Mapping {}
// SAFETY: as above: shared access is atomic access.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` zeroed bytes aligned to `align`, a power of two; both are multiples of the backing's page size.
    pub(crate) fn new(bytes: u64, align: u64, backed: Backed) -> io::Result<Self> {
        let too_large = |_| io::Error::from_raw_os_error(libc::ENOMEM);
        let (length, align) = (usize::try_from(bytes).map_err(too_large)?, usize::try_from(align).map_err(too_large)?);
        let file = match backed {
            Backed::SharedPages => Some(unnamed_file(bytes, 0)?),
            Backed::SharedHugePages(size) => {
                Some(unnamed_file(bytes, libc::MFD_HUGETLB | huge_size_flag(size) as u32)?)
            }
            _ => None,
        };
        let reserved = Reserved::new(length, align)?;
        // SAFETY: the range is this function's own reservation, whose pages nothing refers to; replacing them by
        // MAP_FIXED touches no other mapping. The file, if any, is as long as the mapping.
        let base = unsafe {
            libc::mmap(
                reserved.aligned.cast(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | flags(backed),
                file.as_ref().map_or(-1, AsRawFd::as_raw_fd),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = reserved.keep(length);
        advise(base, length, backed);
        Ok(Self { base: base.cast(), bytes: length })
    }

    /// The memory, word by word.
    #[inline(always)]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` is the start of a live readable and writable mapping of `bytes` bytes, page aligned, zeroed
        // (a valid AtomicU64), which is unmapped only by `drop`, after every borrow of `self`; every access to it in
        // this process goes through this slice, and no other process has the file.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's own, and no slice of it outlives the object.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Inaccessible address space, large enough to hold an aligned mapping; given back when dropped.
struct Reserved {
    start: *mut u8,
    bytes: usize,
    aligned: *mut u8,
}

impl Reserved {
    fn new(length: usize, align: usize) -> io::Result<Self> {
        let bytes = length.checked_add(align).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the host's choice changes no existing memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start.cast::<u8>();
        Ok(Self { start, bytes, aligned: start.wrapping_add(start.align_offset(align)) })
    }

    /// Gives back what lies around the aligned `length` bytes; those now belong to the caller.
    fn keep(self, length: usize) -> NonNull<u8> {
        let before = self.aligned as usize - self.start as usize;
        let after = self.bytes - before - length;
        for (start, bytes) in [(self.start, before), (self.aligned.wrapping_add(length), after)] {
            if bytes > 0 {
                // SAFETY: both pieces are parts of this reservation outside of what the caller keeps; nothing was
                // ever stored in them.
                unsafe { libc::munmap(start.cast(), bytes) };
            }
        }
        let aligned = NonNull::new(self.aligned).expect("the host maps nothing at address zero");
        std::mem::forget(self);
        aligned
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the reservation is this object's own and holds nothing.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

fn flags(backed: Backed) -> libc::c_int {
    match backed {
        Backed::Pages | Backed::TransparentHugePages => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        // No MAP_NORESERVE: huge pages are claimed by the mapping, and a shortage is its error.
        Backed::HugePages(size) => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | huge_size_flag(size),
        Backed::SharedPages => libc::MAP_SHARED | libc::MAP_NORESERVE,
        Backed::SharedHugePages(_) => libc::MAP_SHARED,
    }
}

/// The size of huge pages as `mmap` and `memfd_create` take it: its binary logarithm, in the flags' top bits.
fn huge_size_flag(bytes: u64) -> libc::c_int {
    (bytes.ilog2() << libc::MAP_HUGE_SHIFT) as libc::c_int
}

fn unnamed_file(bytes: u64, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the name is a string ending in zero; a new descriptor is no one else's.
    let file = unsafe { libc::memfd_create(c"slat-guest-memory".as_ptr(), libc::MFD_CLOEXEC | flags) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `file` was just opened and is owned by nothing else.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let length = libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    // SAFETY: setting the length of a file that nothing has mapped.
    if unsafe { libc::ftruncate(file.as_raw_fd(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Tells the host whether to make huge pages of a mapping. Advice: a host that does not follow it maps all the same.
fn advise(base: NonNull<u8>, length: usize, backed: Backed) {
    let advice = match backed {
        Backed::Pages | Backed::SharedPages => libc::MADV_NOHUGEPAGE,
        Backed::TransparentHugePages => libc::MADV_HUGEPAGE,
        Backed::HugePages(_) | Backed::SharedHugePages(_) => return,
    };
    // SAFETY: the range is a mapping of the caller's, and these two kinds of advice change no contents.
    unsafe { libc::madvise(base.as_ptr().cast(), length, advice) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_zero_and_aligned() {
        for backed in [Backed::Pages, Backed::TransparentHugePages, Backed::SharedPages] {
            for align in [4096, 2 << 20, 1 << 30] {
                let mapping = Mapping::new(8192, align, backed).unwrap();
                assert_eq!(mapping.base.as_ptr() as u64 % align, 0);
                assert_eq!(mapping.words().len(), 1024);
                assert!(mapping.words().iter().all(|word| word.load(std::sync::atomic::Ordering::Relaxed) == 0));
            }
        }
    }

    #[test]
    fn more_than_an_address_space_is_an_error() {
        assert!(Mapping::new(u64::MAX - 4095, 4096, Backed::Pages).is_err());
    }
}
