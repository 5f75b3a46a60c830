//! Is an endpoint's silence still plausible?
//!
//! An endpoint that is gone without a word (a stopped process, a cut cable) accepts requests and
//! never answers. Deadlines find out late; its own history finds out soon: every request that it
//! has had for longer than most of its answers took is evidence, and so is every further one. The
//! evidence is added up as the logarithm of how improbable the silence is (the idea of the phi
//! accrual failure detector, Hayashibara et al. 2004). Beyond a threshold the endpoint is suspect:
//! it gets no new requests but a trickle, it is probed at once, and what may be repeated is tried
//! elsewhere as well. Nothing is ever taken from it: the moment that anything comes from it, it is
//! cleared.
//!
//! Only requests sent after the endpoint was last heard count, so that answers which are slow by
//! nature accuse nobody while others come in.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Tick;

/// How improbable a silence must be: one in 10^8.
const THRESHOLD: f64 = 8.0;

/// How long it must last at least: shorter pauses are the scheduler's, or the garbage collector's.
const SHORTEST: Duration = Duration::from_millis(40);

/// Answers of which the latencies must be known before they say anything.
const ENOUGH: u32 = 50;

/// The most that one request can say, unless it waits very much longer than any answer took.
const MOST_OF_ONE: f64 = 3.0;

/// How often a suspect endpoint gets a request nevertheless.
const TRICKLE: Duration = Duration::from_millis(100);

/// Requests that are looked at: the first since the endpoint was last heard. More of them would
/// only say the same louder.
const SLOTS: usize = 32;

/// Buckets of latencies, each a quarter wider than the one before.
const BUCKETS: usize = 72;
const NARROWEST: f64 = 0.000_1;
const RATIO: f64 = 1.25;

/// Answers that are remembered: when there are more, all count half.
const MEMORY: u32 = 4_096;

/// What is known about an endpoint's silence. Written by requests with single atomic operations.
#[derive(Debug)]
pub struct Silence {
    /// When anything last came from it, in microseconds since the process began.
    heard: AtomicU64,
    /// When requests were sent, 0 where nobody waits.
    sent: [AtomicU64; SLOTS],
    next: AtomicU32,
    latencies: Latencies,
    /// Since when it is suspect, 0 if it is not.
    suspect: AtomicU64,
    /// When it last got a request although it is suspect.
    trickled: AtomicU64,
}

/// A request that waits for an answer; given back by [`Silence::over`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    slot: u32,
    sent: u64,
}

/// What a look at an endpoint showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judgement {
    /// Nothing new.
    Same,
    /// Suspect from now on: it was silent for so long.
    Suspect(Duration),
}

impl Default for Silence {
    fn default() -> Self {
        Self {
            heard: AtomicU64::new(0),
            sent: std::array::from_fn(|_| AtomicU64::new(0)),
            next: AtomicU32::new(0),
            latencies: Latencies::default(),
            suspect: AtomicU64::new(0),
            trickled: AtomicU64::new(0),
        }
    }
}

fn micros(tick: Tick) -> u64 {
    (tick.since_start().as_micros() as u64).max(1)
}

impl Silence {
    /// A request was sent.
    pub fn sent(&self, now: Tick) -> Waiting {
        let slot = self.next.fetch_add(1, Ordering::Relaxed) % SLOTS as u32;
        let sent = micros(now);
        let place = &self.sent[slot as usize];
        // Who waits longest says most: while nothing was heard since, the place is taken.
        if place.load(Ordering::Relaxed) <= self.heard.load(Ordering::Relaxed) {
            place.store(sent, Ordering::Relaxed);
        }
        Waiting { slot, sent }
    }

    /// Nobody waits for that answer any more.
    pub fn over(&self, waiting: Waiting) {
        // Another request may have the slot by now.
        let _ = self.sent[waiting.slot as usize].compare_exchange(
            waiting.sent,
            0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Something came: it is not silent. Whether it was suspect until now.
    pub fn heard(&self, now: Tick) -> bool {
        self.heard.store(micros(now), Ordering::Relaxed);
        self.suspect.load(Ordering::Relaxed) != 0 && self.suspect.swap(0, Ordering::Relaxed) != 0
    }

    /// An answer came after this time.
    pub fn answered(&self, took: Duration, now: Tick) -> bool {
        self.latencies.add(took);
        self.heard(now)
    }

    /// Whether it is suspect.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed) != 0
    }

    /// Whether a suspect endpoint may have this one request nevertheless.
    pub fn trickle(&self, now: Tick) -> bool {
        let now = micros(now);
        let before = self.trickled.load(Ordering::Relaxed);
        now.saturating_sub(before) >= TRICKLE.as_micros() as u64
            && self
                .trickled
                .compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Looks at the silence. `deaf`: how long whoever listens was not able to, just now.
    pub fn judge(&self, now: Tick, deaf: Duration) -> Judgement {
        if self.is_suspect() {
            return Judgement::Same;
        }
        let at = micros(now).saturating_sub(deaf.as_micros() as u64);
        let silent = Duration::from_micros(at.saturating_sub(self.heard.load(Ordering::Relaxed)));
        if silent < SHORTEST || self.evidence(at) < THRESHOLD {
            return Judgement::Same;
        }
        self.suspect.store(micros(now), Ordering::Relaxed);
        Judgement::Suspect(silent)
    }

    /// How improbable it is that none of those who wait has been answered, as a power of ten.
    fn evidence(&self, at: u64) -> f64 {
        let heard = self.heard.load(Ordering::Relaxed);
        let waits = self
            .sent
            .iter()
            .map(|sent| sent.load(Ordering::Relaxed))
            .filter(|sent| *sent > heard && *sent < at)
            .map(|sent| Duration::from_micros(at - sent));
        let Some(tail) = self.latencies.tail() else {
            return 0.0;
        };
        waits.map(|wait| tail.improbability(wait)).sum()
    }

    /// The latency that this share of recent answers did not exceed; nothing where too little is
    /// known.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        self.latencies.tail().map(|tail| tail.quantile(share))
    }
}

/// How long answers took, lately.
#[derive(Debug)]
struct Latencies {
    buckets: [AtomicU32; BUCKETS],
    count: AtomicU32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
            count: AtomicU32::new(0),
        }
    }
}

fn bucket(took: Duration) -> usize {
    let ratio = (took.as_secs_f64() / NARROWEST).max(1.0);
    ((ratio.ln() / RATIO.ln()).ceil() as usize).min(BUCKETS - 1)
}

/// The longest latency of a bucket, in seconds.
fn bound(bucket: usize) -> f64 {
    NARROWEST * RATIO.powi(bucket as i32)
}

impl Latencies {
    fn add(&self, took: Duration) {
        self.buckets[bucket(took)].fetch_add(1, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 >= MEMORY {
            self.halve();
        }
    }

    /// Forgets half of everything. What others count meanwhile may be lost: a few among thousands.
    fn halve(&self) {
        let mut count = 0;
        for bucket in &self.buckets {
            let half = bucket.load(Ordering::Relaxed) / 2;
            bucket.store(half, Ordering::Relaxed);
            count += half;
        }
        self.count.store(count, Ordering::Relaxed);
    }

    /// What is known, if it is enough.
    fn tail(&self) -> Option<Tail> {
        if self.count.load(Ordering::Relaxed) < ENOUGH {
            return None;
        }
        let mut above = [0; BUCKETS];
        let mut sum = 0;
        let mut longest = 0;
        for at in (0..BUCKETS).rev() {
            above[at] = sum;
            let count = self.buckets[at].load(Ordering::Relaxed);
            if sum == 0 && count > 0 {
                longest = at;
            }
            sum += count;
        }
        Some(Tail {
            above,
            count: sum,
            longest: bound(longest),
        })
    }
}

/// How many answers took longer than what.
struct Tail {
    above: [u32; BUCKETS],
    count: u32,
    /// The longest, in seconds.
    longest: f64,
}

impl Tail {
    /// How improbable an answer is that takes longer than this, as a power of ten.
    fn improbability(&self, wait: Duration) -> f64 {
        let at = bucket(wait);
        // A wait within a bucket may be as short as the bucket below is long.
        let above = if at == 0 {
            self.count
        } else {
            self.above[at - 1]
        };
        let known = f64::from(above + 1) / f64::from(self.count + 1);
        // Beyond all that was seen, a heavy tail: who takes ten times as long as ever is still
        // possible, and once in a thousand.
        let beyond = (wait.as_secs_f64() / self.longest).max(1.0);
        let evidence = -known.log10() + 3.0 * beyond.log10();
        let most = if beyond > 10.0 {
            THRESHOLD
        } else {
            MOST_OF_ONE
        };
        evidence.clamp(0.0, most)
    }

    fn quantile(&self, share: f64) -> Duration {
        let most = (f64::from(self.count) * (1.0 - share)) as u32;
        let at = self.above.partition_point(|above| *above > most);
        Duration::from_secs_f64(bound(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Tick {
        Tick::after(Duration::from_millis(milliseconds))
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// An endpoint with a history of such latencies.
    fn known(latencies: impl IntoIterator<Item = u64>) -> Silence {
        let silence = Silence::default();
        for latency in latencies {
            silence.answered(ms(latency), at(1));
        }
        silence
    }

    /// When a silence that begins at 1 s becomes implausible, if a request comes every so often.
    fn found_out(silence: &Silence, every: u64) -> Option<u64> {
        silence.heard(at(1_000));
        for now in 1_001_u64..60_000 {
            if (now - 1_001).is_multiple_of(every) {
                let _ = silence.sent(at(now));
            }
            if let Judgement::Suspect(_) = silence.judge(at(now), Duration::ZERO) {
                return Some(now - 1_000);
            }
        }
        None
    }

    #[test]
    fn much_traffic_finds_out_soon_and_little_later() {
        let fast = || known(std::iter::repeat_n(5, 1_000));
        let busy = found_out(&fast(), 1).unwrap();
        assert!((40..60).contains(&busy), "{busy}");
        let some = found_out(&fast(), 20).unwrap();
        assert!((40..150).contains(&some), "{some}");
        let lone = found_out(&fast(), 59_000).unwrap();
        assert!((50..5_000).contains(&lone), "{lone}");
    }

    #[test]
    fn who_is_slow_by_nature_gets_more_time() {
        let slow = known((0..1_000).map(|at| 500 + at % 500));
        let found = found_out(&slow, 10).unwrap();
        assert!(found > 700, "{found}");
    }

    #[test]
    fn nobody_is_accused_without_a_history() {
        let silence = known(std::iter::repeat_n(5, 20));
        assert_eq!(found_out(&silence, 1), None);
    }

    #[test]
    fn slow_answers_among_fast_ones_accuse_nobody() {
        // One in twenty takes 2 s, the rest 5 ms; 200 a second, for 10 minutes, with every seed.
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let silence = known((0..1_000).map(|at| if at % 20 == 0 { 2_000 } else { 5 }));
            let mut answers: std::collections::BTreeMap<u64, Vec<(u64, Waiting)>> =
                std::collections::BTreeMap::new();
            for now in 2_000..62_000 {
                if now % 5 == 0 {
                    let took = if random.u32(0..20) == 0 { 2_000 } else { 5 };
                    let waiting = silence.sent(at(now));
                    answers.entry(now + took).or_default().push((took, waiting));
                }
                for (took, waiting) in answers.remove(&now).unwrap_or_default() {
                    silence.over(waiting);
                    silence.answered(ms(took), at(now));
                }
                let judged = silence.judge(at(now), Duration::ZERO);
                assert_eq!(judged, Judgement::Same, "SEED={seed} at {now}");
            }
        }
    }

    #[test]
    fn a_word_clears_it() {
        let silence = known(std::iter::repeat_n(5, 1_000));
        assert!(found_out(&silence, 1).is_some());
        assert!(silence.is_suspect());
        assert!(silence.trickle(at(61_000)));
        assert!(!silence.trickle(at(61_050)));
        assert!(silence.trickle(at(61_100)));
        assert!(silence.heard(at(62_000)), "it was suspect until now");
        assert!(!silence.is_suspect());
        assert!(!silence.heard(at(62_001)));
    }

    #[test]
    fn those_who_gave_up_waiting_are_no_evidence() {
        let silence = known(std::iter::repeat_n(5, 1_000));
        silence.heard(at(1_000));
        for now in 1_001..1_040 {
            let waiting = silence.sent(at(now));
            silence.over(waiting);
        }
        assert_eq!(silence.judge(at(1_500), Duration::ZERO), Judgement::Same);
    }

    #[test]
    fn who_could_not_listen_accuses_nobody() {
        let silence = known(std::iter::repeat_n(5, 1_000));
        silence.heard(at(1_000));
        for now in 1_001..1_010 {
            let _ = silence.sent(at(now));
        }
        assert_eq!(silence.judge(at(1_100), ms(80)), Judgement::Same);
        assert!(matches!(
            silence.judge(at(1_200), Duration::ZERO),
            Judgement::Suspect(_)
        ));
    }

    #[test]
    fn quantiles_are_of_recent_answers() {
        let silence = known((1..=1_000).map(|at| at / 10));
        let p95 = silence.quantile(0.95).unwrap();
        assert!((ms(90)..ms(125)).contains(&p95), "{p95:?}");
        assert_eq!(Silence::default().quantile(0.5), None);
    }
}
