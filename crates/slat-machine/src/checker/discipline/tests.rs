//! What a change is, from what the words mean.

use super::*;

use Class::{Narrower, Other, Same, Wider};

const LEAF: Leaf = Leaf {
    output: Hpa::new(1 << 21),
    permissions: Permissions::ALL,
    memory: Memory::WriteBack,
    unnoticed: true,
    set_bits: 0,
};

fn class(old: Leaf, new: Leaf) -> Class {
    Meaning::Leaf(old).class(Meaning::Leaf(new))
}

#[test]
fn a_leaf_that_allows_less_is_narrower_and_one_that_allows_more_is_wider() {
    let read = Leaf { permissions: Permissions::READ, unnoticed: false, ..LEAF };
    let noticed = Leaf { unnoticed: false, ..LEAF };
    for leaf in [LEAF, read, noticed] {
        assert_eq!(class(leaf, leaf), Same);
    }
    for less in [read, noticed] {
        assert_eq!([class(LEAF, less), class(less, LEAF)], [Narrower, Wider]);
    }
    assert_eq!([class(noticed, read), class(read, noticed)], [Narrower, Wider]);
    let write = Leaf { permissions: Permissions::READ_WRITE, ..LEAF };
    let execute = Leaf { permissions: Permissions::READ_EXECUTE, ..LEAF };
    assert_eq!([class(write, execute), class(execute, write)], [Narrower, Narrower]);
}

#[test]
fn a_leaf_of_other_memory_or_another_set_is_another() {
    let device = Leaf { memory: Memory::Device, ..LEAF };
    let elsewhere = Leaf { output: Hpa::new(1 << 22), ..LEAF };
    let set = Leaf { set_bits: 4, ..LEAF };
    for other in [device, elsewhere, set] {
        assert_eq!([class(LEAF, other), class(other, LEAF)], [Other, Other]);
    }
    let table = |at| Meaning::Table(Hpa::new(at));
    assert_eq!(table(1 << 12).class(table(1 << 12)), Same);
    assert_eq!(table(1 << 12).class(table(1 << 13)), Other);
    assert_eq!(Meaning::Leaf(LEAF).class(Meaning::Old(1)), Other);
}
