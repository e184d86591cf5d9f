//! Euclidean distance, as every kernel computes it.

/// The squared Euclidean distance of two rows: one chain of fused multiply-adds in the order of the columns.
///
/// The relative error is at most `(width + 2) * 2^-24`; equal rows are at exactly 0. The vectorised kernels give the
/// same bits. Where the rows differ in length, the surplus of the longer one is ignored.
///
/// ```
/// assert_eq!(mbflow_core::squared_distance(&[0.0, 0.0], &[3.0, 4.0]), 25.0);
/// ```
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| {
        let difference = a - b;
        difference.mul_add(difference, sum)
    })
}
