//! Memory of samples that nobody needs any more, for samples to come.

use std::sync::Mutex;

use super::hops::Id;

/// Smaller arrays come fast enough from the allocator.
const LEAST: usize = 64 << 10;
/// Bytes kept at most of each type: what is larger than this goes back to the system.
const MOST: usize = 64 << 20;

/// Arrays that samples were in, by type.
///
/// Large arrays that are freed go back to the operating system, which clears their pages before it hands them out again:
/// up to a third of the time of a sample. A sampler that gets its arrays back by [`Spares::give`] writes over them. Nobody
/// waits for anybody here: while one thread looks, others allocate and free as usual, and so does a process that was forked
/// off at that moment.
///
/// ```
/// use mbflow_core::sampling::Spares;
///
/// let spares = Spares::default();
/// spares.give(Vec::<u32>::with_capacity(100_000));
/// assert!(spares.take::<u32>(90_000).capacity() >= 100_000);
/// ```
#[derive(Debug, Default)]
pub struct Spares {
    pub(super) wide: Mutex<Vec<Vec<i64>>>,
    pub(super) narrow: Mutex<Vec<Vec<u32>>>,
}

impl Spares {
    /// An empty array with room for at least so many values.
    pub fn take<T: Id>(&self, capacity: usize) -> Vec<T> {
        self.find(capacity).unwrap_or_else(|| Vec::with_capacity(capacity))
    }

    fn find<T: Id>(&self, capacity: usize) -> Option<Vec<T>> {
        let mut spares = T::spares(self).try_lock().ok()?;
        let fits = |values: &Vec<T>| (capacity..=capacity.saturating_mul(4)).contains(&values.capacity());
        let fitting = spares.iter().enumerate().filter(|(_, values)| fits(values));
        let (place, _) = fitting.min_by_key(|(_, values)| values.capacity())?;
        Some(spares.remove(place))
    }

    /// Keeps the memory of an array for another one, where it is worth it; those given longest ago make room.
    pub fn give<T: Id>(&self, mut values: Vec<T>) {
        let bytes = |values: &Vec<T>| values.capacity() * size_of::<T>();
        if !(LEAST..=MOST).contains(&bytes(&values)) {
            return;
        }
        values.clear();
        let Ok(mut spares) = T::spares(self).try_lock() else { return };
        spares.push(values);
        while spares.iter().map(bytes).sum::<usize>() > MOST {
            spares.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_taken_again_where_it_fits() {
        let spares = Spares::default();
        spares.give(vec![7_i64; 50_000]);
        spares.give(vec![7_i64; 20_000]);
        let found = spares.take::<i64>(15_000);
        assert_eq!((found.len(), found.capacity()), (0, 20_000));
        assert_eq!(spares.take::<i64>(15_000).capacity(), 50_000);
        // Neither one that is too small, nor memory many times larger than is asked for.
        spares.give(vec![7_i64; 50_000]);
        assert_eq!(spares.take::<i64>(10_000).capacity(), 10_000);
        assert_eq!(spares.take::<i64>(60_000).capacity(), 60_000);
    }

    #[test]
    fn nobody_waits() {
        let spares = Spares::default();
        spares.give(vec![7_u32; 50_000]);
        let looking = spares.narrow.lock().unwrap();
        assert_eq!(spares.take::<u32>(20_000).capacity(), 20_000);
        spares.give(vec![7_u32; 60_000]);
        assert_eq!(looking.len(), 1);
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let spares = Spares::default();
        spares.give(Vec::<u32>::with_capacity(100));
        spares.give(Vec::<u32>::with_capacity(MOST / 4 + 1));
        assert!(spares.narrow.lock().unwrap().is_empty());
        for _ in 0..100 {
            spares.give(Vec::<u32>::with_capacity(MOST / 16));
        }
        assert_eq!(spares.narrow.lock().unwrap().len(), 4);
    }
}
