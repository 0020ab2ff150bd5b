use slat::addr::{Gpa, HostAddress, Hpa};
use slat::host::{Access, Backing, Run, SlotId, TableMemory};

use super::*;
use crate::physical::GUEST_BASE;
use crate::walk::arm64::{Stage2, Vtcr};

fn machine(memory: u64, source: Source) -> Machine {
    let walker = Stage2::new(Vtcr::for_ipa_bits(40).unwrap());
    Machine::new(MachineConfig::new(memory, source, 1), Box::new(walker)).unwrap()
}

fn request(gpa: u64, offset: u64) -> Request {
    Request {
        slot: SlotId(0),
        gpa: Gpa::new(gpa),
        host: HostAddress::new(offset),
        access: Access::Read,
        may_block: false,
    }
}

fn run(machine: &Machine, gpa: u64, offset: u64) -> Run {
    match machine.translate(request(gpa, offset)) {
        Translation::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_holds_the_page_and_every_address_of_it_is_where_it_should_be() {
    for (source, level) in [(Source::Anonymous, 0), (Source::AnonymousThp, 1), (Source::Shmem, 0)] {
        let machine = machine((4 << 20) + 0x3000, source);
        for gpa_of_zero in [0x1000, 2 << 20, (1 << 30) + 0x5000] {
            for offset in [0, 0x1000, (2 << 20) - 0x1000, 4 << 20, (4 << 20) + 0x2000] {
                let run = run(&machine, gpa_of_zero + offset, offset);
                assert!(run.guest.contains(Gpa::new(gpa_of_zero + offset)));
                assert_eq!(run.largest.get(), level);
                let first = run.guest.start().get() - gpa_of_zero;
                assert_eq!(run.hpa, Hpa::new(GUEST_BASE.get() + first), "addresses run along");
                assert!(run.guest.len() <= 2 << 20 && first + run.guest.len() <= machine.memory().len());
            }
        }
    }
}

#[test]
fn a_run_is_cut_where_guest_addresses_begin() {
    let machine = machine(4 << 20, Source::Anonymous);
    let run = run(&machine, 0x1000, 0x10_0000);
    assert_eq!((run.guest.start().get(), run.hpa.get()), (0, GUEST_BASE.get() + 0xf_f000));
}

#[test]
fn there_is_nothing_behind_the_end_of_memory() {
    let machine = machine(4 << 20, Source::Anonymous);
    assert!(matches!(machine.translate(request(0, 4 << 20)), Translation::Denied));
}

#[test]
fn injections_answer_instead_until_they_are_cleared() {
    let machine = machine(4 << 20, Source::Anonymous);
    machine.inject_translation(|request| (request.gpa.get() == 0x1000).then_some(Translation::Retry));
    machine.inject_allocation(|tables| tables > 1);
    assert!(matches!(machine.translate(request(0x1000, 0)), Translation::Retry));
    assert!(matches!(machine.translate(request(0x2000, 0)), Translation::Run(_)));
    assert!(machine.allocate(2).is_none() && machine.allocate(1).is_some());
    machine.clear_injections();
    assert!(matches!(machine.translate(request(0x1000, 0)), Translation::Run(_)));
    assert!(machine.allocate(2).is_some());
    assert_eq!((machine.tables_now(), machine.tables_peak()), (3, 3));
}

#[test]
fn more_tables_than_addresses_are_refused() {
    let config = MachineConfig { table_limit: most_tables(12) + 1, ..MachineConfig::new(4096, Source::Anonymous, 1) };
    let walker = Stage2::new(Vtcr::for_ipa_bits(40).unwrap());
    assert!(matches!(Machine::new(config, Box::new(walker)), Err(MachineError::TableLimit(_))));
}
