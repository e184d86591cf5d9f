//! Turns of several tracks, spread so that all tracks end together, and found without walking to them.
//!
//! A track with `n` turns cuts a round into `n` equal stretches and puts one turn at a random place of each. The turns
//! of all tracks, in order of place, are the round. So after any share of a round every track has had that share of its
//! turns, to within one, and which track has turn `t` follows by looking only at the few turns around it. It is
//! systematic sampling with jitter (Cochran, "Sampling Techniques", 1977, chapter 8).

use crate::seed::stream;
use crate::{Error, Seed};

/// Turns are counted in 48 bits over all rounds, so that no number of a draw overflows.
const MOST_TURNS: u64 = 1 << 48;
/// A round has up to so many: beyond, the stretches that are rounded down would drift by more than one.
const MOST_OF_ROUND: u64 = 1 << 32;

/// One turn: whose it is, and which of its own.
///
/// ```
/// use mbflow_core::{Interleave, Seed, Turn};
///
/// assert_eq!(Interleave::new(Seed(0), &[0, 3])?.at(2), Turn { track: 1, index: 2 });
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The track.
    pub track: u32,
    /// How many turns the track had before, over all rounds.
    pub index: u64,
}

/// Where a turn stands in its round; of two at the same place, that of the lower track comes first.
type Place = (u64, u32);

/// Rounds in which each track has a fixed number of turns; a round follows the other for ever, each drawn anew.
///
/// ```
/// use mbflow_core::{Interleave, Seed};
///
/// let turns = Interleave::new(Seed(7), &[2, 4])?;
/// let first: Vec<u32> = (0..3).map(|turn| turns.at(turn).track).collect();
/// assert_eq!(first.iter().filter(|&&track| track == 0).count(), 1);
/// assert_eq!(turns.before(6), [2, 4]);
/// # Ok::<(), mbflow_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Interleave {
    tracks: Vec<Track>,
    total: u64,
}

#[derive(Debug, Clone)]
struct Track {
    turns: u64,
    /// The length of a stretch, in 2^-64 of a round.
    stretch: u64,
    seed: Seed,
}

impl Track {
    /// Where turn `turn` of a round stands.
    #[inline]
    fn place(&self, round: u64, turn: u64) -> u64 {
        let jitter = self.seed.u64_at(stream::TURNS, round * self.turns + turn);
        turn * self.stretch + ((u128::from(jitter) * u128::from(self.stretch)) >> 64) as u64
    }

    /// How many turns of a round stand before a place; `number` is that of the track.
    #[inline]
    fn before(&self, round: u64, number: u32, place: Place) -> u64 {
        if self.turns == 0 {
            return 0;
        }
        let turn = place.0 / self.stretch;
        if turn >= self.turns {
            return self.turns;
        }
        turn + u64::from((self.place(round, turn), number) < place)
    }
}

impl Interleave {
    /// Rounds in which track `i` has `turns[i]` turns.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] without any turn, with more than 2^32, or with 2^32 tracks.
    pub fn new(seed: Seed, turns: &[u64]) -> Result<Self, Error> {
        let total = turns.iter().try_fold(0_u64, |sum, &turns| sum.checked_add(turns));
        let total = total
            .filter(|total| (1..=MOST_OF_ROUND).contains(total))
            .ok_or_else(|| Error::argument("turns", "expected a sum from 1 to 2^32"))?;
        if u32::try_from(turns.len()).is_err() {
            return Err(Error::argument("turns", format!("expected under 2^32 tracks, got {}", turns.len())));
        }
        let tracks = turns.iter().zip(0..).map(|(&turns, number)| Track {
            turns,
            stretch: if turns <= 1 { u64::MAX } else { ((1_u128 << 64) / u128::from(turns)) as u64 },
            seed: seed.derive(number),
        });
        Ok(Self { tracks: tracks.collect(), total })
    }

    /// The turns of a round.
    pub fn round(&self) -> u64 {
        self.total
    }

    /// Whose turn `turn` is. O(tracks).
    ///
    /// # Panics
    ///
    /// At 2^48 and above.
    pub fn at(&self, turn: u64) -> Turn {
        assert!(turn < MOST_TURNS, "turn {turn}");
        let round = turn / self.total;
        let (_, track, index) = self.find(round, turn % self.total);
        Turn { track, index: round * self.tracks[track as usize].turns + index }
    }

    /// How many of the first `turn` turns each track has. O(tracks).
    ///
    /// # Panics
    ///
    /// Above 2^48.
    pub fn before(&self, turn: u64) -> Vec<u64> {
        assert!(turn <= MOST_TURNS, "turn {turn}");
        let round = turn / self.total;
        let done = self.tracks.iter().map(|track| round * track.turns);
        let in_round = self.in_round(round, turn % self.total);
        done.zip(in_round).map(|(done, before)| done + before).collect()
    }

    /// Turns `first` to `last`, the latter left out. O(tracks + turns log turns).
    ///
    /// # Panics
    ///
    /// When `last` is below `first` or above 2^48.
    pub fn turns(&self, first: u64, last: u64) -> Vec<Turn> {
        assert!(first <= last && last <= MOST_TURNS, "turns {first} to {last}");
        let mut found = Vec::with_capacity((last - first) as usize);
        let mut placed: Vec<(u64, u32, u64)> = Vec::new();
        let mut next = first;
        while next < last {
            let round = next / self.total;
            let end = last.min((round + 1) * self.total);
            let from = self.in_round(round, next % self.total);
            let to = match end % self.total {
                0 => self.tracks.iter().map(|track| track.turns).collect(),
                inside => self.in_round(round, inside),
            };
            placed.clear();
            for (((track, number), from), to) in self.tracks.iter().zip(0..).zip(from).zip(to) {
                placed.extend((from..to).map(|turn| (track.place(round, turn), number, turn)));
            }
            placed.sort_unstable();
            found.extend(placed.iter().map(|&(_, track, turn)| Turn {
                track,
                index: round * self.tracks[track as usize].turns + turn,
            }));
            next = end;
        }
        found
    }

    fn in_round(&self, round: u64, turn: u64) -> Vec<u64> {
        let (place, track, _) = self.find(round, turn);
        let counted = self.tracks.iter().zip(0..);
        counted.map(|(own, number)| own.before(round, number, (place, track))).collect()
    }

    /// Place, track and index of turn `wanted` of a round.
    fn find(&self, round: u64, wanted: u64) -> (u64, u32, u64) {
        // Each track is within one turn of its share at any place, so the turn stands within as many turns of its share
        // of the round as there are tracks; one more on either side makes up for the stretches being rounded down.
        let tracks = self.tracks.len() as u64;
        let share = |turn: u64| {
            let place = (u128::from(turn) << 64) / u128::from(self.total);
            u64::try_from(place).unwrap_or(u64::MAX)
        };
        let low = share(wanted.saturating_sub(tracks + 1));
        let high = share((wanted + tracks + 2).min(self.total));
        let mut earlier = 0;
        let mut around = Vec::with_capacity(5 * self.tracks.len() + 8);
        for (track, number) in self.tracks.iter().zip(0..) {
            if track.turns == 0 {
                continue;
            }
            let first = (low / track.stretch).min(track.turns);
            let last = (high / track.stretch).saturating_add(1).min(track.turns);
            earlier += first;
            around.extend((first..last).map(|turn| (track.place(round, turn), number, turn)));
        }
        let (_, &mut found, _) = around.select_nth_unstable((wanted - earlier) as usize);
        found
    }
}
