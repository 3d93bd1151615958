use std::sync::Mutex;

use futures_util::StreamExt;

use super::*;
use crate::testing::{Count, keys, set};

const SECOND: Duration = Duration::from_secs(1);

/// Answers in turn, the last one for ever, and notes when it was asked.
struct Scripted {
    answers: Vec<Box<dyn Fn() -> Result<Answer, Failure> + Send>>,
    asked: std::sync::Arc<Mutex<Vec<f64>>>,
    start: Instant,
}

impl Resolve for Scripted {
    async fn resolve(&mut self) -> Result<Answer, Failure> {
        self.asked.lock().unwrap().push(self.start.elapsed().as_secs_f64());
        if self.answers.len() > 1 { self.answers.remove(0)() } else { self.answers[0]() }
    }
}

fn good(keys: &'static str, seconds: u64) -> Box<dyn Fn() -> Result<Answer, Failure> + Send> {
    Box::new(move || Ok(Answer::new(set(keys)).valid_for(Duration::from_secs(seconds))))
}

fn bad(why: &'static str, seconds: Option<u64>) -> Box<dyn Fn() -> Result<Answer, Failure> + Send> {
    Box::new(move || {
        let error = Error::new(Kind::Unavailable, Phase::Resolve).with_message(why);
        Err(Failure { error, valid_for: seconds.map(Duration::from_secs) })
    })
}

type Asked = std::sync::Arc<Mutex<Vec<f64>>>;

fn scripted(answers: Vec<Box<dyn Fn() -> Result<Answer, Failure> + Send>>) -> (Resolving<Scripted>, Asked) {
    let asked = Asked::default();
    let scripted = Scripted { answers, asked: asked.clone(), start: Instant::now() };
    (Resolving::new(scripted), asked)
}

/// Without jitter.
fn exact() -> Timing {
    Timing::default().jitter(0.0)
}

/// What comes in so many seconds, with the second.
async fn during(seconds: u64, source: Source) -> Vec<String> {
    let start = Instant::now();
    let until = Box::pin(tokio::time::sleep(Duration::from_secs(seconds)));
    source.take_until(until).map(|item| format!("{} {}", start.elapsed().as_secs(), keys(Some(item)))).collect().await
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_asked_for_again_when_its_time_is_over_between_floor_and_ceiling() {
    for (ttl, expected) in [(0, 5.0), (5, 5.0), (60, 60.0), (86_400, 300.0)] {
        let (resolving, asked) = scripted(vec![good("a:1", ttl)]);
        during(301, resolving.timing(exact()).source().unwrap()).await;
        let asked = asked.lock().unwrap();
        assert!((asked[1] - asked[0] - expected).abs() < 0.01, "{ttl}: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_its_time_is_asked_for_by_the_interval() {
    let (resolving, asked) = scripted(vec![Box::new(|| Ok(Answer::new(set("a:1"))))]);
    during(91, resolving.timing(exact()).source().unwrap()).await;
    let asked = asked.lock().unwrap().clone();
    let whole: Vec<_> = asked.iter().map(|at| at.round()).collect();
    assert_eq!(whole, [0.0, 30.0, 60.0, 90.0]);
}

#[tokio::test(start_paused = true)]
async fn jitter_makes_times_shorter_by_its_share_at_most_and_spreads_them() {
    let mut times = Vec::new();
    for seed in 0..64 {
        let (resolving, asked) = scripted(vec![good("a:1", 100)]);
        let source = resolving.timing(Timing::default().jitter(0.2)).source_with(Rng::with_seed(seed)).unwrap();
        during(101, source).await;
        times.push(asked.lock().unwrap()[1]);
    }
    assert!(times.iter().all(|time| (80.0..=100.01).contains(time)), "{times:?}");
    let spread = times.iter().fold(0.0_f64, |most, time| most.max(*time))
        - times.iter().fold(1e9_f64, |least, time| least.min(*time));
    assert!(spread > 10.0, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn jitter_does_not_go_below_the_floor() {
    let (resolving, asked) = scripted(vec![good("a:1", 1)]);
    during(51, resolving.timing(Timing::default().jitter(1.0)).source().unwrap()).await;
    let asked = asked.lock().unwrap();
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 5.0), "{asked:?}");
    assert!(asked.len() >= 10, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_as_before_is_not_said_again_and_after_a_failure_it_is() {
    let (resolving, _) = scripted(vec![
        good("a:1 b:1", 10),
        good("b:1 a:1", 10),
        bad("server is down", Some(10)),
        good("a:1 b:1", 10),
        good("a:1", 1_000),
    ]);
    let said = during(100, resolving.timing(exact()).source().unwrap()).await;
    assert_eq!(said, ["0 a:1 b:1", "20 error: server is down", "30 a:1 b:1", "40 a:1"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_backed_off_up_to_a_limit_and_a_time_that_is_given_counts() {
    let (resolving, asked) = scripted(vec![bad("x", Some(70)), bad("y", None)]);
    let said = during(300, resolving.timing(exact().backoff(SECOND, 8 * SECOND)).source().unwrap()).await;
    assert_eq!(said[0], "0 error: x");
    assert_eq!(said[1], "70 error: y");
    let asked = asked.lock().unwrap();
    let waits: Vec<_> = asked[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, most) in waits.iter().zip([2.0, 4.0, 8.0, 8.0, 8.0]) {
        assert!((most / 2.0 - 0.01..=most + 0.01).contains(wait), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_reach_anybody_has_it_asked_again_and_not_more_often_than_the_floor() {
    let (resolving, asked) = scripted(vec![good("a:1", 300)]);
    let source = resolving.timing(exact()).source().unwrap();
    let refresh = source.refresh();
    let complaining = async {
        tokio::time::sleep(20 * SECOND).await;
        for _ in 0..200 {
            refresh.ask();
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    tokio::join!(complaining, during(60, source));
    let asked = asked.lock().unwrap();
    // At 0; at once at 20; then every 5 s while somebody asks; and once more for the last who did.
    assert!((asked[1] - 20.0).abs() < 0.01, "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 5.0), "{asked:?}");
    assert_eq!(asked.len(), 7, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_is_a_failure_and_none_on_purpose_is_an_answer() {
    let (resolving, _) = scripted(vec![
        good("a:1", 10),
        Box::new(|| Ok(Answer::new(Vec::new()))),
        Box::new(|| Ok(Answer::new(EndpointSet::none()).valid_for(10 * SECOND))),
    ]);
    let said = during(40, resolving.timing(exact()).source().unwrap()).await;
    assert_eq!(said[..2], ["0 a:1", "10 error: the answer has no endpoints"]);
    assert!(said[2].ends_with(" none"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_not_answered_is_given_up_and_asked_again() {
    struct Silent(Count);
    impl Resolve for Silent {
        async fn resolve(&mut self) -> Result<Answer, Failure> {
            self.0.add();
            std::future::pending().await
        }
    }
    let count = Count::default();
    let source = Resolving::new(Silent(count.clone())).timing(exact().limit(2 * SECOND)).source().unwrap();
    let said = during(30, source).await;
    assert_eq!(said[0], "2 error: the question for endpoints was not answered within 2s");
    assert!(count.get() >= 3, "{}", count.get());
}

#[tokio::test(start_paused = true)]
async fn a_part_that_cannot_be_found_out_is_said_once_before_the_set_and_again_when_it_was_well() {
    let half = |keys: &'static str, why: &'static str| -> Box<dyn Fn() -> Result<Answer, Failure> + Send> {
        Box::new(move || {
            let error = Error::new(Kind::Unavailable, Phase::Resolve).with_message(why);
            Ok(Answer::new(set(keys)).valid_for(10 * SECOND).partial(error))
        })
    };
    let (resolving, _) = scripted(vec![
        good("a:1 b:1", 10),
        half("a:1 b:1", "half"),
        half("a:1 b:1", "half"),
        half("a:1 c:1", "half"),
        good("a:1 c:1", 10),
        half("a:1 c:1", "half"),
        good("a:1 c:1", 1_000),
    ]);
    let said = during(100, resolving.timing(exact()).source().unwrap()).await;
    assert_eq!(said, ["0 a:1 b:1", "10 error: half", "10 a:1 b:1", "30 a:1 c:1", "50 error: half", "50 a:1 c:1"]);
}

#[tokio::test(start_paused = true)]
async fn times_without_an_end_are_times() {
    let (resolving, asked) = scripted(vec![good("a:1", u64::MAX)]);
    let timing = exact().ceiling(Duration::MAX).interval(Duration::MAX);
    during(1_000_000, resolving.timing(timing).source().unwrap()).await;
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[test]
fn times_that_cannot_work_are_refused() {
    for (timing, why) in [
        (Timing::default().floor(Duration::ZERO), "floor"),
        (Timing::default().backoff(Duration::ZERO, SECOND), "backoff"),
        (Timing::default().backoff(2 * SECOND, SECOND), "longest backoff"),
        (Timing::default().limit(Duration::ZERO), "limit"),
        (Timing::default().ceiling(SECOND), "ceiling"),
        (Timing::default().jitter(1.5), "jitter"),
        (Timing::default().jitter(f64::NAN), "jitter"),
    ] {
        let error = timing.check().unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains(why), "{error}");
    }
}
