//! Deadlines: of one try, of the whole request.
use super::{behind, fates, served};
use crate::harness::rogue::nobody;
use crate::harness::{Origin, Rogue, RogueEndpoint};

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_what_waits() {
    let good = Origin::start("good").await;
    let stalling = RogueEndpoint::start(Rogue::Stall).await;
    // One try's time: the next one is elsewhere.
    let rest = ", retry: { per_try: 200ms }";
    let portolan = behind(stalling.address, &good, "", rest).await;
    let [get, post, keyed] = fates(portolan.address().await).await;
    assert_eq!((get, post.0, keyed), (served(), 504, served()));
    portolan.stop().await;
    // Half of the whole time, unless the pool says otherwise.
    let rest = ", timeout: 1s";
    let portolan = behind(stalling.address, &good, "", rest).await;
    let [get, post, keyed] = fates(portolan.address().await).await;
    assert_eq!((get, post.0, keyed), (served(), 504, served()));
    portolan.stop().await;
    // The whole time: there is no next one.
    let (pool, rest) = (", timeouts: { first_byte: 1m }", ", timeout: 300ms");
    let portolan = behind(stalling.address, &good, pool, rest).await;
    let answers = fates(portolan.address().await).await;
    assert!(
        answers.iter().all(|(status, _)| *status == 504),
        "{answers:?}"
    );
    portolan.stop().await;
    // No retries: what is, is.
    let rest = ", retry: { tries: 1 }";
    let portolan = behind(nobody().await, &good, "", rest).await;
    let answers = fates(portolan.address().await).await;
    assert!(
        answers.iter().all(|(status, _)| *status == 502),
        "{answers:?}"
    );
}
