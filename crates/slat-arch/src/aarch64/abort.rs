//! What the syndrome says about a fault that came to EL2. It says what was asked for; what the tables hold now is the
//! engine's to find out.

use slat::addr::Gpa;
use slat::host::Access;

use super::field;

/// Exception class of an instruction abort from a lower level (ESR_EL2.EC, D19.2.40).
pub const INSTRUCTION_ABORT: u64 = 0x20;
/// Exception class of a data abort from a lower level.
pub const DATA_ABORT: u64 = 0x24;

/// Why the walk failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// No valid descriptor.
    Translation,
    /// The accessed flag is clear.
    AccessFlag,
    /// The descriptor does not allow the access.
    Permission,
    /// The TLB holds leaves of two sizes for the address, whose size is being changed (FEAT_BBML2, D8.17.2). Nothing is wrong
    /// with the tables: invalidate the VMID on this CPU (TLBI VMALLS12E1), and let the guest go on.
    Conflict,
    /// Anything else: an external abort, an address that is too large, a parity error.
    Other(u8),
}

/// A guest's access that stage 2 stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// Why.
    pub cause: Cause,
    /// What the guest wanted to do.
    pub access: Access,
    /// Whether it was its own table walk that was stopped, not the access itself (S1PTW).
    pub in_walk: bool,
}

impl Abort {
    /// What ESR_EL2 says; `None` if it is no abort from a lower level.
    #[inline]
    pub const fn decode(esr: u64) -> Option<Self> {
        let class = field(esr, 31, 26);
        if class != INSTRUCTION_ABORT && class != DATA_ABORT {
            return None;
        }
        let status = field(esr, 5, 0) as u8;
        let cause = match status >> 2 {
            0b0001 => Cause::Translation,
            0b0010 => Cause::AccessFlag,
            0b0011 => Cause::Permission,
            _ if status == 0b110000 => Cause::Conflict,
            _ => Cause::Other(status),
        };
        let in_walk = field(esr, 7, 7) == 1;
        let wrote = field(esr, 6, 6) == 1;
        let maintains = field(esr, 8, 8) == 1;
        let access = if in_walk {
            // A walk reads, but for setting flags in its own tables, which only a missing permission stops.
            if matches!(cause, Cause::Permission) { Access::Write } else { Access::Read }
        } else if class == INSTRUCTION_ABORT {
            Access::Execute
        } else if wrote && !maintains {
            Access::Write
        } else {
            Access::Read
        };
        Some(Self { cause, access, in_walk })
    }

    /// Whether HPFAR_EL2 holds the address (D19.2.61): for missing permissions it does only if a walk was stopped, and the
    /// address has to be had by translating FAR_EL2 (`instructions::translate`).
    #[inline]
    pub const fn has_address(&self) -> bool {
        self.in_walk || matches!(self.cause, Cause::Translation | Cause::AccessFlag)
    }
}

/// The address from HPFAR_EL2, which has its page, and FAR_EL2, which has its offset.
#[inline]
pub const fn faulting_address(hpfar: u64, far: u64) -> Gpa {
    Gpa::new(field(hpfar, 43, 4) << 12 | far & 0xfff)
}

/// The address from PAR_EL1 after a translation of FAR_EL2 (D19.2.111); `None` if the guest's tables have changed
/// meanwhile, and the access is to be tried again.
#[inline]
pub const fn translated_address(par: u64, far: u64) -> Option<Gpa> {
    if par & 1 != 0 { None } else { Some(Gpa::new(field(par, 51, 12) << 12 | far & 0xfff)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any syndrome: an abort of a guest's exactly in two classes, and nothing else of it decides that.
        #[test]
        fn any_syndrome_is_an_abort_or_none(raw in any::<u64>(), class in prop_oneof![Just(0x20u64), Just(0x24), 0u64..64]) {
            let esr = raw & !(0x3f << 26) | class << 26;
            let abort = Abort::decode(esr);
            prop_assert_eq!(abort.is_some(), class == INSTRUCTION_ABORT || class == DATA_ABORT);
            if let Some(abort) = abort {
                prop_assert_eq!(abort.in_walk, esr >> 7 & 1 == 1);
                prop_assert!(abort.access != Access::Execute || (class == INSTRUCTION_ABORT && !abort.in_walk));
                prop_assert!(abort.access != Access::Write || class == DATA_ABORT || abort.in_walk);
                let status = (esr & 0x3f) as u8;
                let is_other = !(0b000100..0b010000).contains(&status) && status != 0b110000;
                prop_assert_eq!(abort.cause == Cause::Other(status), is_other);
                prop_assert_eq!(Abort::decode(esr ^ 1 << 40), Some(abort), "ISS2 says nothing of it");
            }
        }

        #[test]
        fn any_registers_are_an_address_or_none(hpfar in any::<u64>(), far in any::<u64>(), par in any::<u64>()) {
            let at = faulting_address(hpfar, far).get();
            prop_assert_eq!((at & 0xfff, at >> 52), (far & 0xfff, 0));
            prop_assert_eq!(faulting_address(at >> 12 << 4, at).get(), at);
            let translated = translated_address(par, far).map(Gpa::get);
            prop_assert_eq!(translated, (par & 1 == 0).then_some(par & 0x000f_ffff_ffff_f000 | far & 0xfff));
        }
    }

    const DATA: u64 = DATA_ABORT << 26;
    const WRITE: u64 = 1 << 6;
    const WALK: u64 = 1 << 7;
    const MAINTENANCE: u64 = 1 << 8;

    fn access(esr: u64) -> Access {
        Abort::decode(esr).unwrap().access
    }

    #[test]
    fn what_the_guest_wanted() {
        assert_eq!(access(DATA | 0b000111), Access::Read);
        assert_eq!(access(DATA | 0b001111 | WRITE), Access::Write);
        assert_eq!(
            access(DATA | 0b000111 | WRITE | MAINTENANCE),
            Access::Read,
            "maintenance reports a write, and is none"
        );
        assert_eq!(access(INSTRUCTION_ABORT << 26 | 0b000110), Access::Execute);
        assert_eq!(access(INSTRUCTION_ABORT << 26 | 0b000110 | WALK), Access::Read, "a walk is no fetch");
        assert_eq!(access(DATA | 0b001110 | WALK), Access::Write, "the walker sets a flag");
        assert_eq!(Abort::decode(0x16 << 26), None, "a hypervisor call");
    }

    #[test]
    fn causes_and_where_the_address_is() {
        for level in 0..4 {
            let cause = |status: u64| Abort::decode(DATA | status | level).unwrap();
            assert_eq!(cause(0b000100).cause, Cause::Translation);
            assert!(cause(0b000100).has_address() && cause(0b001000).has_address());
            assert_eq!(cause(0b001000).cause, Cause::AccessFlag);
            assert_eq!(cause(0b001100).cause, Cause::Permission);
            assert!(!cause(0b001100).has_address() && cause(0b001100 | WALK).has_address());
        }
        assert_eq!(Abort::decode(DATA | 0b010000).unwrap().cause, Cause::Other(0b010000));
        let conflict = Abort::decode(DATA | 0b110000).unwrap();
        assert!(conflict.cause == Cause::Conflict && !conflict.has_address());
    }

    #[test]
    fn addresses_are_put_together() {
        assert_eq!(faulting_address(0x0000_0000_0412_3450, 0xffff_8000_0000_0abc), Gpa::new(0x4_1234_5abc));
        assert_eq!(translated_address(0xff00_0000_4567_8800, 0x123), Some(Gpa::new(0x4567_8123)));
        assert_eq!(translated_address(0x0000_0000_4567_8801, 0x123), None);
    }
}
