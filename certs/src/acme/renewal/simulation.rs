//! Certificates through years in a moment: one story told in full, and random ones that must keep
//! the rules whatever happens.

use std::fmt::Write as _;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn policy() -> Policy {
    Policy {
        renew_after: 2.0 / 3.0,
        retry_min: Duration::from_secs(60),
        retry_max: 6 * HOUR,
    }
}

fn day(n: u32) -> Moment {
    Moment::default() + DAY * n
}

fn valid_for(from: Moment, days: u32) -> Validity {
    Validity {
        from,
        until: from + DAY * days,
    }
}

/// Drives one certificate and writes down what it wants.
struct Story {
    renewal: Renewal,
    now: Moment,
    text: String,
}

impl Story {
    fn begin(now: Moment) -> Self {
        Self {
            renewal: Renewal::default(),
            now,
            text: String::new(),
        }
    }

    fn happens(&mut self, event: RenewalEvent) {
        let renewal = std::mem::take(&mut self.renewal);
        let (renewal, effects) = renewal.step(&policy(), event, self.now, 0.5);
        self.renewal = renewal;
        let hours = self.now.since(Moment::default()).as_secs_f64() / 3_600.0;
        let _ = writeln!(self.text, "day {:.2}: {effects:?}", hours / 24.0);
    }

    /// Jumps to where it wants to be woken.
    fn sleep(&mut self) {
        let wake = self.renewal.wake(&policy()).expect("something is due");
        assert!(wake > self.now, "{wake} is not later than {}", self.now);
        self.now = wake;
        self.happens(RenewalEvent::Woken);
    }
}

#[test]
fn the_life_of_a_certificate() {
    let mut story = Story::begin(day(100));
    story.happens(RenewalEvent::Woken);
    story.happens(RenewalEvent::Failed { not_before: None });
    story.sleep();
    let issued = valid_for(story.now, 90);
    story.happens(RenewalEvent::Issued(issued));
    story.happens(RenewalEvent::NotAdvised);
    // Asked once a day whether the authority has changed its mind, until it is time.
    let mut days = 0;
    while !story.renewal.is_ordering() {
        let before = story.text.len();
        story.sleep();
        if story.text[before..].contains("AskWhen") {
            story.text.truncate(before);
            let renewal = std::mem::take(&mut story.renewal);
            story.renewal = renewal
                .step(&policy(), RenewalEvent::NotAdvised, story.now, 0.5)
                .0;
            days += 1;
        }
    }
    assert_eq!(days, 57);
    // The authority is not what it was. It fails until the certificate is over.
    let mut failures = 0;
    while story.renewal.level(story.now) < Level::Expired {
        let renewal = std::mem::take(&mut story.renewal);
        let (renewal, effects) = renewal.step(
            &policy(),
            RenewalEvent::Failed { not_before: None },
            story.now,
            0.5,
        );
        story.renewal = renewal;
        failures += 1;
        if !effects.is_empty() {
            let _ = writeln!(story.text, "failure {failures}: {effects:?}");
        }
        while !story.renewal.is_ordering() {
            let before = story.text.len();
            story.sleep();
            if !story.text[before..].contains("Tell") {
                story.text.truncate(before);
            }
        }
    }
    assert!((150..400).contains(&failures), "{failures}");
    assert_eq!(
        story.text,
        "\
day 100.00: [Order { replacing: false }]
day 100.00: [Tell(Urgent)]
day 100.00: [Order { replacing: false }]
day 100.00: [AskWhen]
day 100.00: []
day 157.75: [Order { replacing: true }]
failure 1: [Tell(Failing)]
day 175.00: [Tell(Urgent)]
day 190.00: [Tell(Expired)]
"
    );
}

#[test]
fn an_authority_that_says_when_is_obeyed() {
    let now = day(10);
    let held = valid_for(now, 90);
    let (renewal, effects) =
        Renewal::default().step(&policy(), RenewalEvent::Found(held), now, 0.0);
    assert_eq!(effects, [Effect::AskWhen]);
    assert_eq!(renewal.order_at(&policy()), day(70));
    let advise = |renewal: Renewal, window, now: Moment, chance| {
        let again = now + HOUR * 6;
        renewal.step(
            &policy(),
            RenewalEvent::Advised { window, again },
            now,
            chance,
        )
    };
    // Something happened: everything is to be renewed tomorrow.
    let (renewal, effects) = advise(renewal, (day(11), day(13)), now, 0.5);
    assert_eq!(effects, []);
    assert_eq!(renewal.order_at(&policy()), day(12));
    assert_eq!(renewal.wake(&policy()), Some(now + HOUR * 6));
    // The same window, asked for again: the moment stays.
    let (renewal, _) = advise(renewal, (day(11), day(13)), now + HOUR * 6, 0.9);
    assert_eq!(renewal.order_at(&policy()), day(12));
    // A window that lies in the past means now.
    let (renewal, effects) = advise(renewal, (day(1), day(2)), now + HOUR * 12, 0.9);
    assert_eq!(effects, [Effect::Order { replacing: true }]);
    // It does not want to hear of what is replaced: without, after the wait.
    let (renewal, effects) = renewal.step(
        &policy(),
        RenewalEvent::Failed { not_before: None },
        now + HOUR * 12,
        0.5,
    );
    assert_eq!(effects, [Effect::Tell(Level::Failing)]);
    let wake = renewal.wake(&policy()).unwrap();
    let (_, effects) = renewal.step(&policy(), RenewalEvent::Woken, wake, 0.5);
    assert_eq!(effects, [Effect::Order { replacing: false }]);
}

#[test]
fn a_window_behind_the_end_is_not_waited_for() {
    let held = valid_for(day(0), 100);
    let (renewal, _) = Renewal::default().step(&policy(), RenewalEvent::Found(held), day(1), 0.0);
    let window = (day(200), day(300));
    let again = day(2);
    let (renewal, _) = renewal.step(
        &policy(),
        RenewalEvent::Advised { window, again },
        day(1),
        0.5,
    );
    assert_eq!(renewal.order_at(&policy()), day(95));
}

#[test]
fn an_authority_is_left_alone_as_long_as_it_asks() {
    let now = day(3);
    let (renewal, _) = Renewal::default().step(&policy(), RenewalEvent::Woken, now, 0.5);
    let failed = |not_before| RenewalEvent::Failed {
        not_before: Some(not_before),
    };
    let (later, _) = renewal
        .clone()
        .step(&policy(), failed(now + HOUR), now, 0.5);
    assert_eq!(later.wake(&policy()), Some(now + HOUR));
    // Sooner than our own wait does not shorten it; years are not believed.
    let (sooner, _) =
        renewal
            .clone()
            .step(&policy(), failed(now + Duration::from_secs(1)), now, 0.5);
    assert_eq!(sooner.wake(&policy()), Some(now + policy().retry_min));
    let (years, _) = renewal.step(&policy(), failed(now + DAY * 4_000), now, 0.5);
    assert_eq!(years.wake(&policy()), Some(now + DAY * 7));
    // Changed settings end our own wait, and not the one that the authority asked for.
    let (_, effects) = sooner.step(&policy(), RenewalEvent::Changed, now + HOUR / 60 / 2, 0.5);
    assert_eq!(effects, [Effect::Order { replacing: false }]);
    let (_, effects) = later.step(&policy(), RenewalEvent::Changed, now, 0.5);
    assert_eq!(effects, []);
}

#[test]
fn whatever_happens_the_rules_hold() {
    for seed in 0..200 {
        run(seed);
    }
}

/// An authority that fails by chance and by outage, and a driver that obeys.
fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let policy = Policy {
        renew_after: 0.3 + 0.6 * random.f64(),
        retry_min: Duration::from_secs(random.u64(1..300)),
        retry_max: HOUR * random.u32(1..24),
    };
    let lifetime = DAY * random.u32(3..100);
    let advises = random.bool();
    let flaky = random.f64() * 0.7;
    let outage = (day(random.u32(0..300)), random.u32(0..20));
    let outage = (outage.0, outage.0 + DAY * outage.1);
    let mut now = day(0);
    let mut renewal = Renewal::default();
    let mut under_way = false;
    let mut last_failure: Option<Moment> = None;
    let mut told = Level::Fine;
    let mut event = RenewalEvent::Woken;
    let end = day(400);
    let mut steps = 0;
    while now < end {
        steps += 1;
        assert!(steps < 60_000, "seed {seed}: too busy");
        let (next, effects) = renewal.step(&policy, event, now, random.f64());
        renewal = next;
        if matches!(event, RenewalEvent::Issued(_)) {
            told = Level::Fine;
        }
        event = RenewalEvent::Woken;
        for effect in effects {
            match effect {
                Effect::Order { replacing } => {
                    assert!(!under_way, "seed {seed}: two orders at once");
                    under_way = true;
                    assert!(!replacing || renewal.held().is_some(), "seed {seed}");
                    if let Some(failed) = last_failure {
                        let waited = now.since(failed);
                        let least = policy.retry_min.mul_f64(0.79);
                        assert!(waited >= least, "seed {seed}: again after {waited:?}");
                    }
                    let down = now >= outage.0 && now < outage.1;
                    if down || random.f64() < flaky {
                        last_failure = Some(now);
                        event = RenewalEvent::Failed { not_before: None };
                    } else {
                        last_failure = None;
                        event = RenewalEvent::Issued(Validity {
                            from: now,
                            until: now + lifetime,
                        });
                    }
                }
                Effect::AskWhen => {
                    assert!(renewal.held().is_some(), "seed {seed}");
                    let held = renewal.held().unwrap();
                    event = if advises {
                        let start = held.at(0.5);
                        RenewalEvent::Advised {
                            window: (start, held.at(0.7)),
                            again: now + HOUR * 6,
                        }
                    } else {
                        RenewalEvent::NotAdvised
                    };
                }
                Effect::Tell(level) => {
                    assert!(level > told, "seed {seed}: {level:?} after {told:?}");
                    told = level;
                }
            }
        }
        if event != RenewalEvent::Woken {
            under_way &= !matches!(event, RenewalEvent::Issued(_) | RenewalEvent::Failed { .. });
            continue;
        }
        // Without an outage as long as what is left at the renewal, nothing ever expires.
        let longest = lifetime.mul_f64(0.02);
        if outage.1.since(outage.0) < longest && flaky < 0.3 && renewal.held().is_some() {
            assert_ne!(renewal.level(now), Level::Expired, "seed {seed}");
        }
        assert_eq!(renewal.level(now).max(told), told, "seed {seed}: not told");
        let wake = renewal.wake(&policy).expect("something is due");
        assert!(wake > now, "seed {seed}: {wake} at {now}");
        now = wake;
    }
}
