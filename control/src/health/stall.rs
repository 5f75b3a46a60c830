//! Is an endpoint's silence still plausible? The stall detector.
//!
//! An endpoint that is gone without a word (a stopped process, a cut cable) accepts requests and
//! never answers. Deadlines find out late; its own history finds out soon: every request that it
//! has had for longer than most of its answers took is evidence, and so is every further one. The
//! evidence is added up as the logarithm of how improbable the silence is (the idea of the phi
//! accrual failure detector, Hayashibara et al. 2004). Beyond a threshold the endpoint is suspect:
//! it gets no new requests but a trickle, it is probed at once, and requests that may run twice are
//! tried elsewhere as well. Nothing is ever taken from it: the moment that anything comes from it, it
//! is cleared.
//!
//! # What is evidence
//! - **Several requests.** Their waits count from when the endpoint was last heard, so that answers
//!   which are slow by nature accuse nobody while others come in; at least one of them must have been sent
//!   after that; and one request alone is never enough, however long it takes: it may be slow by nature.
//! - **What is usual.** The endpoint's own recent latencies; where it has answered too few requests,
//!   those of its pool. Where the whole pool has answered too few, requests count little, and never
//!   enough by themselves.
//! - **A probe** that is not answered, while its predecessors were at once: a probe is the same question
//!   each time. Once a probe has failed without an answer, a single request that waits is enough. A
//!   request that waits long at an endpoint of which nothing is heard has it probed at once ([`Judgement::Doubt`]).
//!
//! A probe that passes clears an endpoint that only probes have accused. What requests say about it a
//! probe does not take back: a health check that works says little about the workers behind it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Tick;

/// How improbable a silence must be: one in 10^8.
const THRESHOLD: f64 = 8.0;

/// How long it must last at least: shorter pauses are the scheduler's, or the garbage collector's.
const SHORTEST: Duration = Duration::from_millis(40);

/// Answers of which the latencies must be known before they say anything.
const ENOUGH: u32 = 10;

/// Answers that quantiles are made of.
const ENOUGH_FOR_QUANTILES: u32 = 50;

/// The most that one request can say, however long it waits.
const MOST_OF_ONE: f64 = 3.0;

/// An answer is late that comes later than all but one in a hundred.
const LATE: f64 = 2.0;

/// The most that requests can say together where nothing is known about usual latencies.
const MOST_UNKNOWN: f64 = 5.0;

/// Where nothing is known, a request that waits ten times as long as this is one decade of evidence.
const UNKNOWN: f64 = 0.1;

/// The most that a probe can say which was not answered yet.
const MOST_OF_PROBE: f64 = 5.0;

/// A probe is late when it takes so many times as long as usual, and this long at least.
const LATE_PROBE: (f64, f64) = (5.0, 0.025);

/// What a failed probe says: any request that waits longer than is usual does the rest.
const FAILED_PROBE: f64 = THRESHOLD - 0.1;

/// How long a request waits at an endpoint of which nothing is heard until that is probed.
const DOUBT: Duration = Duration::from_millis(150);

/// An endpoint is probed for that reason no more often than this.
const DOUBTS: Duration = Duration::from_secs(1);

/// How often a suspect endpoint gets a request nevertheless: at first, and at the least, if it stays
/// silent.
const TRICKLE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(3_200));

/// How long requests go elsewhere, if no request waits any more that could be answered and only
/// probes speak for the endpoint: at first, and at the most, if it falls silent again each time.
const HOLD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(32));

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
/// Times are microseconds since the process began; 0 is never.
#[derive(Debug)]
pub struct StallDetector {
    /// When anything last came from it, in answer to a request.
    heard: AtomicU64,
    /// When requests were sent, 0 where nobody waits.
    sent: [AtomicU64; SLOTS],
    next: AtomicU32,
    latencies: Latencies,
    /// Since when it is suspect.
    suspect: AtomicU64,
    /// Requests were the evidence, not probes alone.
    by_requests: AtomicU32,
    /// How often it fell silent again after probes alone had cleared it.
    relapses: AtomicU32,
    /// When it last got a request although it is suspect, and how long until the next one.
    trickled: AtomicU64,
    gap: AtomicU64,
    /// When the probe under way was sent.
    probing: AtomicU64,
    /// When the last probe was sent that failed without an answer, if none has passed since.
    probe_failed: AtomicU64,
    /// How long probes usually take, in microseconds.
    usual_probe: AtomicU64,
    /// When it was last probed because requests waited.
    doubted: AtomicU64,
}

/// A request that waits for an answer; given back by [`StallDetector::over`].
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
    /// It should be probed now.
    Doubt,
    /// Suspect from now on: it was silent for so long.
    Suspect(Duration),
}

impl Default for StallDetector {
    fn default() -> Self {
        Self {
            heard: AtomicU64::new(0),
            sent: std::array::from_fn(|_| AtomicU64::new(0)),
            next: AtomicU32::new(0),
            latencies: Latencies::default(),
            suspect: AtomicU64::new(0),
            by_requests: AtomicU32::new(0),
            relapses: AtomicU32::new(0),
            trickled: AtomicU64::new(0),
            gap: AtomicU64::new(0),
            probing: AtomicU64::new(0),
            probe_failed: AtomicU64::new(0),
            usual_probe: AtomicU64::new(0),
            doubted: AtomicU64::new(0),
        }
    }
}

fn micros(tick: Tick) -> u64 {
    (tick.since_start().as_micros() as u64).max(1)
}

fn span(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// What a wait says where nothing is known about usual latencies, as a power of ten.
fn unknown(wait: Duration) -> f64 {
    (1.0 + wait.as_secs_f64() / UNKNOWN)
        .log10()
        .min(MOST_OF_ONE)
}

impl StallDetector {
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

    /// Something came in answer to a request: it is not silent. Whether it was suspect until now.
    pub fn heard(&self, now: Tick) -> bool {
        self.heard.store(micros(now), Ordering::Relaxed);
        let was = self.suspect.load(Ordering::Relaxed) != 0
            && self.suspect.swap(0, Ordering::Relaxed) != 0;
        if was {
            self.relapses.store(0, Ordering::Relaxed);
        }
        was
    }

    /// An answer came after this time.
    pub fn answered(&self, took: Duration, now: Tick) -> bool {
        self.latencies.add(took);
        self.heard(now)
    }

    /// Whether anything came from it since then, in answer to a request.
    pub fn was_heard_since(&self, then: Tick) -> bool {
        self.heard.load(Ordering::Relaxed) > micros(then)
    }

    /// Whether it is suspect.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed) != 0
    }

    /// Whether a suspect endpoint may have this one request nevertheless.
    pub fn trickle(&self, now: Tick) -> bool {
        let now = micros(now);
        let before = self.trickled.load(Ordering::Relaxed);
        let gap = self.gap.load(Ordering::Relaxed);
        let may = now.saturating_sub(before) >= gap
            && self
                .trickled
                .compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if may {
            let longest = TRICKLE.1.as_micros() as u64;
            self.gap.store((gap * 2).min(longest), Ordering::Relaxed);
        }
        may
    }

    // === Probes ===

    /// A probe is sent.
    pub fn probe_sent(&self, now: Tick) {
        self.probing.store(micros(now), Ordering::Relaxed);
    }

    /// A probe passed after this time. Whether the endpoint was suspect until now.
    pub fn probe_passed(&self, took: Duration, now: Tick) -> bool {
        self.probing.store(0, Ordering::Relaxed);
        self.probe_failed.store(0, Ordering::Relaxed);
        let took = (took.as_micros() as u64).max(1);
        let usual = match self.usual_probe.load(Ordering::Relaxed) {
            0 => took,
            // Slow ones count at once, and are forgotten slowly.
            before if took < before => before - (before - took) / 8,
            _ => took,
        };
        self.usual_probe.store(usual, Ordering::Relaxed);
        let since = self.suspect.load(Ordering::Relaxed);
        if since == 0 {
            return false;
        }
        if self.by_requests.load(Ordering::Relaxed) != 0 {
            let relapses = self.relapses.load(Ordering::Relaxed);
            let hold = (HOLD.0 * 2u32.pow(relapses.min(8))).min(HOLD.1);
            if span(micros(now).saturating_sub(since)) < hold || self.is_awaited() {
                return false;
            }
            self.relapses.store(relapses + 1, Ordering::Relaxed);
        }
        self.suspect.swap(0, Ordering::Relaxed) != 0
    }

    /// A probe failed: `silently`, without any answer. Whether the endpoint is suspect from now on, and
    /// for how long it was silent.
    pub fn probe_over(&self, silently: bool, now: Tick) -> Option<Duration> {
        let sent = self.probing.swap(0, Ordering::Relaxed);
        if !silently || sent == 0 {
            return None;
        }
        let heard = self.heard.load(Ordering::Relaxed);
        // Who answers requests meanwhile is not silent.
        if heard >= sent {
            return None;
        }
        self.probe_failed.store(sent, Ordering::Relaxed);
        let now = micros(now);
        let longest = self.waits(now).max()?;
        if self.is_suspect() || longest < SHORTEST {
            return None;
        }
        // Who is slow by nature gets the time that its own answers take.
        let evidence = match self.latencies.tail(ENOUGH) {
            Some(tail) => self.waits(now).map(|wait| tail.improbability(wait)).sum(),
            None => THRESHOLD,
        };
        (FAILED_PROBE + evidence >= THRESHOLD).then(|| {
            self.accuse(now, false);
            span(now - heard.min(now)).min(longest)
        })
    }

    // === Judging ===

    /// Looks at the silence. `deaf`: how long whoever listens was not able to, just now. `others`: the
    /// other endpoints of its pool, which say what is usual where this one has answered too little.
    pub fn judge<'a>(
        &self,
        now: Tick,
        deaf: Duration,
        others: impl Iterator<Item = &'a Self>,
    ) -> Judgement {
        if self.is_suspect() {
            return Judgement::Same;
        }
        let at = micros(now).saturating_sub(deaf.as_micros() as u64);
        let heard = self.heard.load(Ordering::Relaxed);
        let silent = span(at.saturating_sub(heard));
        let longest = self.waits(at).max();
        let Some(longest) = longest.filter(|longest| *longest >= SHORTEST) else {
            return Judgement::Same;
        };
        let probes = self.evidence_of_probes(at, heard);
        if probes + self.evidence_of_requests(at, others) >= THRESHOLD {
            self.accuse(micros(now), probes < FAILED_PROBE);
            return Judgement::Suspect(silent.min(longest));
        }
        let probing = self.probing.load(Ordering::Relaxed) != 0;
        if longest >= DOUBT && silent >= DOUBT && !probing && self.doubt(at) {
            return Judgement::Doubt;
        }
        Judgement::Same
    }

    /// Whether an answer to a request that was sent then is late, by what is usual: not yet improbable
    /// enough to accuse an endpoint of which nothing else is known.
    pub fn is_late(&self, sent: Tick, now: Tick) -> bool {
        let wait = now.since(sent);
        let evidence = match self.latencies.tail(ENOUGH) {
            Some(tail) => tail.improbability(wait),
            None => unknown(wait),
        };
        evidence >= LATE
    }

    fn accuse(&self, now: u64, by_requests: bool) {
        self.by_requests
            .store(u32::from(by_requests), Ordering::Relaxed);
        self.gap
            .store(TRICKLE.0.as_micros() as u64, Ordering::Relaxed);
        self.trickled.store(now, Ordering::Relaxed);
        self.suspect.store(now, Ordering::Relaxed);
    }

    /// Whether it was not probed for this reason a moment ago.
    fn doubt(&self, now: u64) -> bool {
        let before = self.doubted.load(Ordering::Relaxed);
        span(now.saturating_sub(before)) >= DOUBTS
            && self
                .doubted
                .compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// How long requests have waited since the endpoint was last heard: those that were sent after that, and,
    /// where one of these waits, also those that were sent before.
    fn waits(&self, at: u64) -> impl Iterator<Item = Duration> {
        let heard = self.heard.load(Ordering::Relaxed);
        let sent = || self.sent.iter().map(|sent| sent.load(Ordering::Relaxed));
        let newer = sent().any(|sent| sent > heard && sent < at);
        // At a time, a handful of clients can all be waiting for answers to requests of before.
        let least = match newer {
            true => 0,
            false => heard,
        };
        sent()
            .filter(move |sent| *sent > least && *sent < at)
            .map(move |sent| span(at.saturating_sub(sent.max(heard))))
    }

    /// Whether a request waits that was sent after the endpoint was last heard.
    fn is_awaited(&self) -> bool {
        self.waits(u64::MAX).next().is_some()
    }

    /// How improbable it is that none of those who wait has been answered, as a power of ten.
    fn evidence_of_requests<'a>(&self, at: u64, others: impl Iterator<Item = &'a Self>) -> f64 {
        let own = self.latencies.tail(ENOUGH);
        let tail = own.or_else(|| {
            let pool = Latencies::default();
            pool.merge(&self.latencies);
            for other in others {
                pool.merge(&other.latencies);
            }
            pool.tail(ENOUGH)
        });
        match tail {
            Some(tail) => self.waits(at).map(|wait| tail.improbability(wait)).sum(),
            None => {
                let sum: f64 = self.waits(at).map(unknown).sum();
                sum.min(MOST_UNKNOWN)
            }
        }
    }

    /// The same of the probe under way, or of the last one, if it failed without an answer.
    fn evidence_of_probes(&self, at: u64, heard: u64) -> f64 {
        if self.probe_failed.load(Ordering::Relaxed) > heard {
            return FAILED_PROBE;
        }
        let sent = self.probing.load(Ordering::Relaxed);
        if sent <= heard || sent >= at {
            return 0.0;
        }
        let usual = span(self.usual_probe.load(Ordering::Relaxed)).as_secs_f64();
        if usual == 0.0 {
            // None was ever answered.
            return 0.0;
        }
        let late = (usual * LATE_PROBE.0).max(LATE_PROBE.1);
        let waited = span(at - sent).as_secs_f64();
        (3.0 * (waited / late).log10()).clamp(0.0, MOST_OF_PROBE)
    }

    /// The latency that this share of recent answers did not exceed; nothing where too little is
    /// known.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let tail = self.latencies.tail(ENOUGH_FOR_QUANTILES);
        tail.map(|tail| tail.quantile(share))
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

    /// Adds those of another endpoint.
    fn merge(&self, other: &Self) {
        for (own, more) in self.buckets.iter().zip(&other.buckets) {
            let more = more.load(Ordering::Relaxed);
            if more > 0 {
                own.fetch_add(more, Ordering::Relaxed);
                self.count.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// What is known, if it is so many answers.
    fn tail(&self, enough: u32) -> Option<Tail> {
        if self.count.load(Ordering::Relaxed) < enough {
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
        evidence.clamp(0.0, MOST_OF_ONE)
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
    fn known(latencies: impl IntoIterator<Item = u64>) -> StallDetector {
        let stall = StallDetector::default();
        for latency in latencies {
            stall.answered(ms(latency), at(1));
        }
        stall
    }

    /// A look at an endpoint that is alone in its pool.
    fn look(stall: &StallDetector, now: u64) -> Judgement {
        stall.judge(at(now), Duration::ZERO, std::iter::empty())
    }

    /// When a silence that begins at 1 s becomes implausible, if a request comes every so often.
    fn found_out(stall: &StallDetector, every: u64) -> Option<u64> {
        stall.heard(at(1_000));
        for now in 1_001_u64..60_000 {
            if (now - 1_001).is_multiple_of(every) {
                let _ = stall.sent(at(now));
            }
            if let Judgement::Suspect(_) = look(stall, now) {
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
        let few = found_out(&fast(), 1_000).unwrap();
        assert!(
            (2_000..2_100).contains(&few),
            "three requests, a second apart: {few}"
        );
        // One that waits alone may be slow by nature.
        assert_eq!(found_out(&fast(), 59_000), None);
    }

    #[test]
    fn who_is_slow_by_nature_gets_more_time() {
        let slow = known((0..1_000).map(|at| 500 + at % 500));
        let found = found_out(&slow, 10).unwrap();
        assert!(found > 700, "{found}");
    }

    #[test]
    fn requests_alone_accuse_nobody_without_a_history() {
        let stall = known(std::iter::repeat_n(5, 9));
        assert_eq!(found_out(&stall, 1), None);
    }

    #[test]
    fn the_rest_of_the_pool_says_what_is_usual() {
        let others: Vec<StallDetector> = (0..3).map(|_| known(std::iter::repeat_n(5, 4))).collect();
        let stall = StallDetector::default();
        for now in [1_000, 1_010, 1_020] {
            let _ = stall.sent(at(now));
        }
        let look = |now| stall.judge(at(now), Duration::ZERO, others.iter());
        assert_eq!(look(1_030), Judgement::Same);
        assert_eq!(look(1_100), Judgement::Suspect(ms(100)));
    }

    #[test]
    fn who_waits_long_has_the_endpoint_probed_and_a_late_probe_is_evidence() {
        let stall = StallDetector::default();
        stall.probe_sent(at(500));
        assert!(!stall.probe_passed(ms(1), at(501)));
        let _ = stall.sent(at(1_000));
        assert_eq!(look(&stall, 1_100), Judgement::Same);
        assert_eq!(look(&stall, 1_160), Judgement::Doubt);
        stall.probe_sent(at(1_160));
        assert_eq!(look(&stall, 1_200), Judgement::Same, "it is being probed");
        // One request of which nothing is known, and a probe that is late: not enough.
        for now in (1_200..3_000).step_by(50) {
            assert_eq!(look(&stall, now), Judgement::Same, "{now}");
        }
        // Several are.
        for now in 3_000..3_010 {
            let _ = stall.sent(at(now));
        }
        assert!(matches!(look(&stall, 3_200), Judgement::Suspect(_)));
    }

    #[test]
    fn with_a_failed_probe_one_request_that_waits_is_enough() {
        // Sent before the probe failed.
        let stall = StallDetector::default();
        stall.probe_sent(at(1_000));
        let _ = stall.sent(at(1_500));
        assert_eq!(stall.probe_over(true, at(3_000)), Some(ms(1_500)));
        assert!(stall.is_suspect());
        // Sent afterwards.
        let stall = known(std::iter::repeat_n(5, 100));
        stall.probe_sent(at(1_000));
        assert_eq!(stall.probe_over(true, at(3_000)), None);
        let _ = stall.sent(at(3_500));
        assert_eq!(look(&stall, 3_510), Judgement::Same);
        assert_eq!(look(&stall, 3_541), Judgement::Suspect(ms(41)));
        // A probe that fails with an answer says that somebody is there.
        let stall = StallDetector::default();
        stall.probe_sent(at(1_000));
        let _ = stall.sent(at(1_500));
        assert_eq!(stall.probe_over(false, at(3_000)), None);
        // Who answers requests meanwhile is not silent.
        let stall = StallDetector::default();
        stall.probe_sent(at(1_000));
        stall.heard(at(1_200));
        let _ = stall.sent(at(1_500));
        assert_eq!(stall.probe_over(true, at(3_000)), None);
    }

    #[test]
    fn a_probe_does_not_take_back_what_requests_say() {
        let stall = known(std::iter::repeat_n(5, 1_000));
        stall.heard(at(1_000));
        let waiting: Vec<Waiting> = (1_001..1_020).map(|now| stall.sent(at(now))).collect();
        assert!(matches!(look(&stall, 1_100), Judgement::Suspect(_)));
        stall.probe_sent(at(1_100));
        assert!(!stall.probe_passed(ms(1), at(1_101)));
        assert!(
            !stall.probe_passed(ms(1), at(60_000)),
            "requests still wait"
        );
        for waiting in waiting {
            stall.over(waiting);
        }
        assert!(stall.probe_passed(ms(1), at(60_001)));
        assert!(!stall.is_suspect());
        // When it falls silent again the next time takes longer.
        let waiting: Vec<Waiting> = (61_000..61_020).map(|now| stall.sent(at(now))).collect();
        assert!(matches!(look(&stall, 61_100), Judgement::Suspect(_)));
        for waiting in waiting {
            stall.over(waiting);
        }
        assert!(!stall.probe_passed(ms(1), at(64_000)));
        assert!(stall.probe_passed(ms(1), at(65_200)));
    }

    #[test]
    fn a_trickle_runs_dry_while_nothing_comes_of_it() {
        let stall = known(std::iter::repeat_n(5, 1_000));
        assert!(found_out(&stall, 1).is_some());
        let mut asked = 0;
        for now in 2_000..62_000 {
            asked += u32::from(stall.trickle(at(now)));
        }
        assert!((20..30).contains(&asked), "{asked}");
    }

    #[test]
    fn slow_answers_among_fast_ones_accuse_nobody() {
        // One in twenty takes 2 s, the rest 5 ms; 200 a second, for 10 minutes, with every seed.
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let stall = known((0..1_000).map(|at| if at % 20 == 0 { 2_000 } else { 5 }));
            let mut answers: std::collections::BTreeMap<u64, Vec<(u64, Waiting)>> =
                std::collections::BTreeMap::new();
            for now in 2_000..62_000 {
                if now % 5 == 0 {
                    let took = if random.u32(0..20) == 0 { 2_000 } else { 5 };
                    let waiting = stall.sent(at(now));
                    answers.entry(now + took).or_default().push((took, waiting));
                }
                for (took, waiting) in answers.remove(&now).unwrap_or_default() {
                    stall.over(waiting);
                    stall.answered(ms(took), at(now));
                }
                let judged = look(&stall, now);
                let suspect = matches!(judged, Judgement::Suspect(_));
                assert!(!suspect, "SEED={seed} at {now}");
            }
        }
    }

    #[test]
    fn a_word_clears_it() {
        let stall = known(std::iter::repeat_n(5, 1_000));
        assert!(found_out(&stall, 1).is_some());
        assert!(stall.is_suspect());
        assert!(stall.trickle(at(61_000)));
        assert!(!stall.trickle(at(61_150)));
        assert!(stall.trickle(at(61_200)));
        assert!(stall.heard(at(62_000)), "it was suspect until now");
        assert!(!stall.is_suspect());
        assert!(!stall.heard(at(62_001)));
    }

    #[test]
    fn those_who_gave_up_waiting_are_no_evidence() {
        let stall = known(std::iter::repeat_n(5, 1_000));
        stall.heard(at(1_000));
        for now in 1_001..1_040 {
            let waiting = stall.sent(at(now));
            stall.over(waiting);
        }
        assert_eq!(look(&stall, 1_500), Judgement::Same);
    }

    #[test]
    fn who_could_not_listen_accuses_nobody() {
        let stall = known(std::iter::repeat_n(5, 1_000));
        stall.heard(at(1_000));
        for now in 1_001..1_010 {
            let _ = stall.sent(at(now));
        }
        let deaf = stall.judge(at(1_100), ms(80), std::iter::empty());
        assert_eq!(deaf, Judgement::Same);
        assert!(matches!(look(&stall, 1_200), Judgement::Suspect(_)));
    }

    #[test]
    fn quantiles_are_of_recent_answers() {
        let stall = known((1..=1_000).map(|at| at / 10));
        let p95 = stall.quantile(0.95).unwrap();
        assert!((ms(90)..ms(125)).contains(&p95), "{p95:?}");
        assert_eq!(StallDetector::default().quantile(0.5), None);
    }
}
