//! Gathers against the definition, value by value, for every encoding, type of id, width and instruction set.

use proptest::prelude::*;

use super::{RowEncoding, RowIds, RowTable, gather_f32, gather_f32_by, gather_rows, gather_rows_by};
use crate::{Error, Exec, Seed, Simd};

/// The value of a float16 by its definition, in double precision; the bits of a NaN beside.
fn slow_float16(bits: u16) -> f32 {
    let (negative, exponent, fraction) = (bits >> 15 == 1, bits >> 10 & 31, bits & 1023);
    let value = match exponent {
        31 if fraction != 0 => {
            let bits = u32::from(negative) << 31 | 0x7f80_0000 | u32::from(fraction) << 13;
            return f32::from_bits(bits);
        }
        31 => f64::INFINITY,
        0 => f64::from(fraction) * 2.0_f64.powi(-24),
        _ => (1.0 + f64::from(fraction) / 1024.0) * 2.0_f64.powi(i32::from(exponent) - 15),
    };
    (if negative { -value } else { value }) as f32
}

/// The bits of what a row is as float32.
fn slow_row(encoding: RowEncoding<'_>, row: usize, bytes: &[u8]) -> Vec<u32> {
    let pairs = bytes.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], *pair.last().unwrap()]));
    match encoding {
        RowEncoding::Float16 => pairs.map(|bits| slow_float16(bits).to_bits()).collect(),
        RowEncoding::BFloat16 => pairs.map(|bits| u32::from(bits) << 16).collect(),
        RowEncoding::Int8 { scales } => {
            let whole = bytes.iter().map(|&byte| i64::from(byte) - if byte > 127 { 256 } else { 0 });
            whole.map(|whole| ((whole as f64 * f64::from(scales[row])) as f32).to_bits()).collect()
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    (0..count as u64).map(|at| Seed(seed).u64_at(80, at) as u8).collect()
}

fn random_ids(seed: u64, count: usize, rows: usize) -> Vec<i64> {
    (0..count as u64).map(|at| (Seed(seed).u64_at(81, at) % rows as u64) as i64).collect()
}

/// The same ids in each type.
struct Ids(Vec<u32>, Vec<u64>, Vec<i32>, Vec<i64>);

impl Ids {
    fn new(ids: &[i64]) -> Self {
        Self(
            ids.iter().map(|&id| id as u32).collect(),
            ids.iter().map(|&id| id as u64).collect(),
            ids.iter().map(|&id| id as i32).collect(),
            ids.to_vec(),
        )
    }

    fn all(&self) -> [RowIds<'_>; 4] {
        [RowIds::U32(&self.0), RowIds::U64(&self.1), RowIds::I32(&self.2), RowIds::I64(&self.3)]
    }
}

/// Gathers by every instruction set and type of id, and compares with the definition.
fn compare(seed: u64, rows: usize, row_bytes: usize, count: usize, exec: &Exec) {
    let bytes = random_bytes(seed, rows * row_bytes);
    let table = RowTable::new(&bytes, rows, row_bytes).unwrap();
    let row = |id: i64| &bytes[id as usize * row_bytes..][..row_bytes];
    let scales: Vec<f32> = (0..rows as u64).map(|row| Seed(seed).normal(82, row)).collect();
    let encodings = [RowEncoding::Float16, RowEncoding::BFloat16, RowEncoding::Int8 { scales: &scales }];
    let list = random_ids(seed, count, rows);
    let copied: Vec<u8> = list.iter().flat_map(|&id| row(id)).copied().collect();
    let ids = Ids::new(&list);
    for (simd, ids) in Simd::available().into_iter().flat_map(|simd| ids.all().map(|ids| (simd, ids))) {
        let mut out = vec![99; copied.len()];
        gather_rows_by(simd, exec, table, ids, &mut out).unwrap();
        assert!(out == copied, "{} {ids:?}", simd.name());
        for encoding in encodings.iter().filter(|encoding| row_bytes.is_multiple_of(encoding.bytes())) {
            let mut out = vec![99.0; count * row_bytes / encoding.bytes()];
            gather_f32_by(simd, exec, table, *encoding, ids, &mut out).unwrap();
            let expected = list.iter().flat_map(|&id| slow_row(*encoding, id as usize, row(id)));
            assert!(bits(&out) == expected.collect::<Vec<_>>(), "{} {}", simd.name(), encoding.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn gathers_are_as_defined(
        seed in any::<u64>(),
        rows in 1..40_usize,
        row_bytes in prop_oneof![0..10_usize, 0..300_usize, Just(64), Just(512), 1000..1500_usize],
        count in 0..60_usize,
        threads in 1..=3_usize,
    ) {
        compare(seed, rows, row_bytes, count, &Exec::with_threads(threads).unwrap());
    }
}

#[test]
fn many_pieces_are_one_gather() {
    for threads in 1..=3 {
        let exec = Exec::with_threads(threads).unwrap();
        // 8192 columns of float32, half of which are more than a piece; and narrow rows, many to a piece.
        compare(5, 7, 32768, 40, &exec);
        compare(6, 1, 7, 200_000, &exec);
        compare(7, 1000, 12, 60_000, &exec);
    }
}

#[test]
fn every_float16_is_exact() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
    let expected: Vec<u32> = (0..=u16::MAX).map(|bits| slow_float16(bits).to_bits()).collect();
    let table = RowTable::new(&bytes, 1, bytes.len()).unwrap();
    for simd in Simd::available() {
        let mut out = vec![0.0; expected.len()];
        let ids = RowIds::U32(&[0]);
        gather_f32_by(simd, &Exec::serial(), table, RowEncoding::Float16, ids, &mut out).unwrap();
        assert!(bits(&out) == expected, "{}", simd.name());
    }
}

#[test]
fn the_first_id_that_is_no_row_is_named_and_nothing_written() {
    let bytes = random_bytes(1, 800 * 3);
    let table = RowTable::new(&bytes, 800, 3).unwrap();
    let refused = |ids: RowIds<'_>, threads| {
        let mut out = vec![7; ids.len() * 3];
        let error = gather_rows(&Exec::with_threads(threads).unwrap(), table, ids, &mut out).unwrap_err();
        assert!(out.iter().all(|&byte| byte == 7));
        error.to_string()
    };
    let mut ids = vec![1_i64; 300_000];
    (ids[250_001], ids[200_017], ids[200_018]) = (-9, 900, -1);
    for threads in 1..=3 {
        let expected = "ids: ids[200017] is 900; expected 0 to 799 (the table has 800 rows)";
        assert_eq!(refused(RowIds::I64(&ids), threads), expected);
    }
    assert!(
        refused(RowIds::I64(&[0, 799, i64::MIN]), 1).starts_with("ids: ids[2] is -9223372036854775808; ")
    );
    assert!(refused(RowIds::I32(&[-1]), 1).starts_with("ids: ids[0] is -1; expected 0 to 799"));
    assert!(refused(RowIds::U32(&[800]), 1).starts_with("ids: ids[0] is 800; "));
    assert!(refused(RowIds::U64(&[u64::MAX]), 1).starts_with("ids: ids[0] is 18446744073709551615; "));
}

#[test]
fn tables_of_no_rows_and_rows_of_no_bytes() {
    let exec = Exec::serial();
    let none = RowTable::new(&[], 0, 12).unwrap();
    assert_eq!(gather_rows(&exec, none, RowIds::I64(&[]), &mut []), Ok(()));
    let error = gather_rows(&exec, none, RowIds::I64(&[0]), &mut [0; 12]).unwrap_err();
    assert_eq!(error.to_string(), "ids: ids[0] is 0; the table has no rows");
    let narrow = RowTable::new(&[], 1, 0).unwrap();
    assert_eq!(gather_rows(&exec, narrow, RowIds::U32(&[0, 0]), &mut []), Ok(()));
    assert_eq!(gather_f32(&exec, narrow, RowEncoding::BFloat16, RowIds::U32(&[0]), &mut []), Ok(()));
    let error = gather_rows(&exec, narrow, RowIds::U32(&[0, 1]), &mut []).unwrap_err();
    assert_eq!(error.to_string(), "ids: ids[1] is 1; expected 0 (the table has 1 row)");
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let exec = Exec::serial();
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();
    assert!(RowTable::new(&[], usize::MAX, 2).is_err());
    let table = RowTable::new(&[0; 12], 4, 3).unwrap();
    let ids = RowIds::U32(&[1, 2]);
    assert_eq!(
        message(gather_rows(&exec, table, ids, &mut [0; 5])),
        "out: expected 2 rows of 3 values, got 5 values"
    );
    assert_eq!(
        message(gather_f32(&exec, table, RowEncoding::Float16, ids, &mut [0.0; 3])),
        "table: expected rows of whole float16 values of 2 bytes, got rows of 3 bytes"
    );
    let encoding = RowEncoding::Int8 { scales: &[1.0; 3] };
    assert_eq!(
        message(gather_f32(&exec, table, encoding, ids, &mut [0.0; 6])),
        "scales: expected one for each of 4 rows, got 3"
    );
}

#[test]
fn a_gather_stops_when_asked() {
    let cancel = crate::Cancel::default();
    cancel.set();
    let exec = Exec::serial().with_cancel(&cancel);
    let table = RowTable::new(&[1, 2], 2, 1).unwrap();
    assert_eq!(gather_rows(&exec, table, RowIds::U32(&[1]), &mut [0]), Err(Error::Interrupted));
}
