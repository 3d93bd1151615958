use std::fs;

use futures_util::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::testing::keys;

/// Real time passes here, since files have no other: looks are frequent instead.
fn watched(path: &Path) -> Source {
    File::new(path).every(Duration::from_millis(20)).source().unwrap()
}

/// A file of a directory of its own, old enough to be taken at once.
fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints");
    replace(&path, text);
    (dir, path)
}

/// As it should be written.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

async fn next(source: &mut Source) -> String {
    let item = tokio::time::timeout(Duration::from_secs(10), source.next()).await.expect("nothing is said");
    keys(item)
}

/// Nothing is said for so many looks.
async fn silence(source: &mut Source) {
    let item = tokio::time::timeout(Duration::from_millis(400), source.next()).await;
    assert!(item.is_err(), "{}", keys(item.unwrap()));
}

#[tokio::test]
async fn a_file_that_is_replaced_is_a_new_set_and_one_that_is_not_says_nothing() {
    let (_dir, path) = file("a:1\n");
    let mut source = watched(&path);
    assert_eq!(next(&mut source).await, "a:1");
    silence(&mut source).await;
    replace(&path, "a:1\nb:1\n");
    assert_eq!(next(&mut source).await, "a:1 b:1");
    // As long as the one before, and of the same time.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let new = path.with_extension("new");
    fs::write(&new, "a:1\nc:1\n").unwrap();
    fs::File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    fs::rename(&new, &path).unwrap();
    assert_eq!(next(&mut source).await, "a:1 c:1");
}

#[tokio::test]
async fn a_broken_file_keeps_the_set_says_once_where_it_is_broken_and_is_taken_again_when_it_is_well() {
    let (_dir, path) = file("a:1\n");
    let mut source = watched(&path);
    assert_eq!(next(&mut source).await, "a:1");
    replace(&path, "a:1\nb:port\n");
    let said = next(&mut source).await;
    assert!(said.contains("line 2") && said.contains(path.to_str().unwrap()), "{said}");
    silence(&mut source).await;
    replace(&path, "a:1\n");
    assert_eq!(next(&mut source).await, "a:1");
}

#[tokio::test]
async fn a_file_that_is_gone_or_empty_empties_nothing_and_one_that_comes_late_is_taken() {
    let (_dir, path) = file("a:1\n");
    let mut source = watched(&path);
    assert_eq!(next(&mut source).await, "a:1");
    fs::remove_file(&path).unwrap();
    let said = next(&mut source).await;
    assert!(said.starts_with("error: cannot take endpoints from"), "{said}");
    silence(&mut source).await;
    replace(&path, "");
    assert!(next(&mut source).await.contains("there is no endpoint in it"));
    replace(&path, "a:1\n");
    assert_eq!(next(&mut source).await, "a:1");
    replace(&path, "none\n");
    assert_eq!(next(&mut source).await, "none");
}

// As Kubernetes mounts a ConfigMap: the file is a link through `..data`, and that is exchanged.
#[cfg(unix)]
#[tokio::test]
async fn a_link_that_is_exchanged_above_the_file_is_a_new_set() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let version = |name: &str, text: &str| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("endpoints"), text).unwrap();
        symlink(name, dir.path().join("..new")).unwrap();
        fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    };
    version("..1", "a:1\n");
    symlink("..data/endpoints", dir.path().join("endpoints")).unwrap();
    let mut source = watched(&dir.path().join("endpoints"));
    assert_eq!(next(&mut source).await, "a:1");
    version("..2", "b:1\n");
    fs::remove_dir_all(dir.path().join("..1")).unwrap();
    assert_eq!(next(&mut source).await, "b:1");
}

#[tokio::test]
async fn half_of_a_file_that_is_written_in_place_is_not_taken() {
    let (_dir, path) = file("a:1\n");
    let mut source = watched(&path);
    assert_eq!(next(&mut source).await, "a:1");
    let writing = write_slowly(&path, 6);
    let said = next(&mut source).await;
    writing.join().unwrap();
    assert_eq!(said.split(' ').count(), 6, "{said}");
}

/// Lines, one by one, in place, and each time as old as if another clock had written it. As another program would.
fn write_slowly(path: &Path, lines: u32) -> std::thread::JoinHandle<()> {
    use std::io::Write;
    let path = path.to_owned();
    std::thread::spawn(move || {
        let mut file = fs::File::create(path).unwrap();
        for line in 0..lines {
            writeln!(file, "a{line}:1").unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
            #[expect(clippy::disallowed_methods, reason = "it is a thread of its own")]
            std::thread::sleep(Duration::from_millis(40));
        }
    })
}

#[tokio::test]
async fn a_file_that_is_written_to_for_long_is_an_error_until_it_is_done() {
    let (_dir, path) = file("a:1\n");
    let mut source = watched(&path);
    assert_eq!(next(&mut source).await, "a:1");
    let writing = write_slowly(&path, 50);
    assert!(next(&mut source).await.contains("written to all the time"));
    let said = next(&mut source).await;
    writing.join().unwrap();
    assert_eq!(said.split(' ').count(), 50, "{said}");
}

#[tokio::test]
async fn a_file_that_is_touched_says_nothing() {
    let (_dir, path) = file("a:1\n");
    let mut source = watched(&path);
    assert_eq!(next(&mut source).await, "a:1");
    replace(&path, "a:1\n");
    silence(&mut source).await;
    replace(&path, "b:1\n");
    assert_eq!(next(&mut source).await, "b:1");
}

#[tokio::test]
async fn it_is_not_looked_at_as_often_as_somebody_asks() {
    let (_dir, path) = file("a:1\n");
    let mut source = File::new(&path).every(Duration::MAX).source().unwrap();
    assert_eq!(next(&mut source).await, "a:1");
    let refresh = source.refresh();
    let asking = async {
        for _ in 0..400 {
            refresh.ask();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let polls = std::cell::Cell::new(0);
    let counted = std::future::poll_fn(|cx| {
        polls.set(polls.get() + 1);
        source.poll_next_unpin(cx).map(drop)
    });
    tokio::select! {
        () = asking => {}
        () = counted => panic!("nothing is new"),
    }
    // Also polled when the task beside it is.
    assert!(polls.get() < 400 + 60, "{}", polls.get());
}

#[tokio::test]
async fn a_file_that_is_too_long_is_not_read() {
    let (_dir, path) = file("a:1\n");
    // Of holes, as long as a gigabyte.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    let mut source = watched(&path);
    let said = next(&mut source).await;
    assert!(said.contains("longer than 67108864 bytes: raise max_bytes"), "{said}");
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_no_file_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = watched(dir.path());
    assert!(next(&mut source).await.contains("it is no file"));
}

#[tokio::test]
async fn it_is_looked_at_when_somebody_asks() {
    let (_dir, path) = file("a:1\n");
    let mut source = File::new(&path).every(Duration::from_secs(3_600)).source().unwrap();
    assert_eq!(next(&mut source).await, "a:1");
    replace(&path, "b:1\n");
    source.refresh().ask();
    assert_eq!(next(&mut source).await, "b:1");
}

// As where the times of files have steps of a second.
#[tokio::test]
async fn a_file_that_was_written_twice_within_one_step_of_its_times_is_read_once_more() {
    let (_dir, path) = file("a:1\n");
    let mark = Mark::of(&fs::metadata(&path).unwrap());
    let holds = Arc::new(std::sync::Mutex::new("a:1"));
    let held = holds.clone();
    let glance = move |ask: &Ask| match ask {
        Ask { seen: Some(seen), .. } if *seen == mark => Look::Unchanged,
        Ask { quiet: Some(_), .. } => {
            let text = *held.lock().unwrap();
            Look::New(mark.clone(), stable_hash(text.as_bytes()), Ok(crate::testing::set(text).into()))
        }
        _ => Look::Changing(mark.clone()),
    };
    let mut watch = Watch::new(path, glance, Duration::from_millis(50), Refresh::new().1);
    assert_eq!(keys(Some(watch.next().await)), "a:1");
    *holds.lock().unwrap() = "b:1";
    let second = timeout(Duration::from_secs(4), watch.next()).await.expect("it is read once more");
    assert_eq!(keys(Some(second)), "b:1");
}

// As on a mount whose server is gone.
#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "who waits for it is a thread of its own")]
async fn a_look_that_hangs_is_an_error_and_the_only_one_and_what_it_finds_at_last_is_taken() {
    let (_dir, path) = file("a:1\n");
    // It has been so for long: nothing but the error has it read again.
    let old = SystemTime::now() - Duration::from_secs(60);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let looker = Looker { path: path.clone(), format: Format::Lines, max_bytes: 99, defaults: Defaults::new() };
    let hangs = Arc::new(std::sync::Mutex::new(()));
    let looks = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (gate, count) = (hangs.clone(), looks.clone());
    let glance = move |ask: &Ask| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        drop(gate.lock().unwrap());
        looker.look(ask)
    };
    let mut watch = Watch::new(path.clone(), glance, Duration::from_millis(10), Refresh::new().1);
    watch.stuck = Duration::from_millis(50);
    assert_eq!(keys(Some(watch.next().await)), "a:1");
    let so_far = looks.load(std::sync::atomic::Ordering::Relaxed);
    {
        let _hanging = hangs.lock().unwrap();
        let error = watch.next().await.unwrap_err();
        assert!(error.to_string().contains("reading it takes longer than 50ms"), "{error}");
        assert!(timeout(Duration::from_millis(300), watch.next()).await.is_err(), "it is said once");
        assert!(looks.load(std::sync::atomic::Ordering::Relaxed) <= so_far + 2, "one hangs, and no other");
    }
    assert_eq!(keys(Some(watch.next().await)), "a:1", "it is well again, and that is said");
}

#[test]
fn a_file_cannot_be_looked_at_all_the_time() {
    let error = File::new("x").every(Duration::ZERO).source().unwrap_err();
    assert!(error.to_string().contains("every 0 s"), "{error}");
}

#[test]
fn bytes_that_are_no_text_are_said_with_their_line() {
    assert_eq!(parse(Format::Lines, b"a:1\nb:\xff1").unwrap_err(), "line 2: it is no UTF-8");
    assert_eq!(parse(Format::Lines, "\u{feff}a:1".as_bytes()).unwrap().len(), 1);
}

#[cfg(all(feature = "json", feature = "yaml"))]
mod documents {
    use super::*;

    fn key_of(set: &EndpointSet) -> Vec<&str> {
        set.iter().map(|endpoint| endpoint.key().as_str()).collect()
    }

    #[test]
    fn json_and_yaml_say_the_same_as_lines() {
        let json =
            br#"{"endpoints": ["a:1", {"address": "b:2", "weight": 0.5, "zone": "z", "priority": 2, "tls_name": "t",
            "key": "k", "metadata": {"version": "7"}}]}"#;
        let yaml = b"# ours\n- a:1\n- address: b:2\n  weight: 0.5\n  zone: z\n  priority: 2\n  tls_name: t\n  key: k\n  metadata:\n    version: \"7\"\n";
        let lines = b"a:1\nb:2 weight=0.5 zone=z priority=2 tls_name=t key=k version=7";
        let lines = parse(Format::Lines, lines).unwrap();
        assert_eq!(key_of(&lines), ["a:1", "k"]);
        assert_eq!(parse(Format::Json, json).unwrap(), lines);
        assert_eq!(parse(Format::Yaml, yaml).unwrap(), lines);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, why) in [
            ("[\"a:1\",\n \"b\"]", "line 2"),
            ("[\"a:1\",\n {\"address\": \"b:1\", \"wieght\": 2}]", "unknown field `wieght`"),
            ("[{\"weight\": 2}]", "missing field `address`"),
            ("[{\"address\": \"a:1\", \"weight\": -1}]", "the weight of an endpoint"),
            ("[{\"address\": \"a:1\", \"priority\": 300}]", "300"),
            ("[\"a:1\", {\"address\": \"a:1\", \"zone\": \"z\"}]", "two different endpoints have the key a:1"),
            ("{\"hosts\": []}", "unknown field `hosts`"),
            ("{}", "missing field `endpoints`"),
            ("[]", "there is no endpoint in it"),
            ("{\"endpoints\": []}", "there is no endpoint in it"),
            ("[\"a:1\"", "line 1"),
            ("", "line 1"),
            ("7", "a list of endpoints"),
            ("[\"a:1\"] x", "line 1"),
        ] {
            let said = parse(Format::Json, text.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        for (text, why) in [
            ("- a:1\n- b\n", "line 2"),
            ("- address: a:1\n  wieght: 2\n", "wieght"),
            ("endpoints: [\n", "line"),
            ("", "line 1"),
        ] {
            let said = parse(Format::Yaml, text.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn none_is_said_as_a_text() {
        for (format, text) in
            [(Format::Json, "\"none\""), (Format::Json, "{\"endpoints\": \"none\"}"), (Format::Yaml, "none\n")]
        {
            assert!(parse(format, text.as_bytes()).unwrap().is_none_on_purpose(), "{text}");
        }
    }

    #[test]
    fn a_small_file_cannot_be_a_large_one() {
        let mut text = String::from("a: &a [x:1, x:1, x:1, x:1, x:1, x:1, x:1, x:1, x:1]\n");
        for (new, old) in ["b", "c", "d", "e", "f", "g", "h"].into_iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
            text +=
                &format!("{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n");
        }
        text += "endpoints: *h\n";
        assert!(parse(Format::Yaml, text.as_bytes()).is_err());
        assert!(parse(Format::Yaml, "[".repeat(100_000).as_bytes()).is_err());
        assert!(parse(Format::Json, "[".repeat(100_000).as_bytes()).is_err());
    }
}
