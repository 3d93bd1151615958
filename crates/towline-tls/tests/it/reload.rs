//! Certificates that change while connections are made.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::ssl::{SslContextBuilder, SslVerifyMode};
use tokio::time::{Instant, sleep};
use towline_core::{Event, Observer, Observers};
use towline_tls::{TlsBackend, TlsConfig, TlsErrorKind};

use crate::support::{Cert, Files, Spec, backends, call, connect, echo, serve, tls, tls_seen};

const NAME: &str = "db.towline.test";
const OFTEN: Duration = Duration::from_millis(5);

/// Certificate and key in one file, so that they change at once.
fn put_identity(files: &Files, identity: &Cert) {
    files.put("new", [identity.pem(), identity.key_pem()].concat());
    std::fs::rename(files.path("new"), files.path("identity.pem")).unwrap();
}

/// What was told of reloads.
#[derive(Default)]
struct Told {
    reloaded: AtomicUsize,
    failed: Mutex<Vec<String>>,
    weakened: AtomicUsize,
}

impl Observer for Told {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::TlsReloaded => drop(self.reloaded.fetch_add(1, Ordering::Relaxed)),
            Event::TlsReloadFailed { error } => self.failed.lock().unwrap().push(error.to_string()),
            Event::TlsWeakened { .. } => drop(self.weakened.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

impl Told {
    fn reloaded(&self) -> usize {
        self.reloaded.load(Ordering::Relaxed)
    }

    fn failed(&self) -> usize {
        self.failed.lock().unwrap().len()
    }
}

/// Until it is so.
async fn until(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "in vain");
        sleep(Duration::from_millis(1)).await;
    }
}

fn names(backend: TlsBackend, test: &str) -> Files {
    Files::new(&format!("{test}-{backend:?}"))
}

// F15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_across_twenty_rotations_one_of_them_garbage_all_succeed() {
    const TASKS: usize = 8;
    const CALLS: usize = 10_000 / TASKS;
    for backend in backends() {
        let (files, told, root) =
            (names(backend, "rotations"), Arc::new(Told::default()), Spec::ca("root").self_signed());
        let identity = || Spec::new(&["client"]).for_clients().signed_by(&root);
        let authority = root.x509.clone();
        let asks = move |server: &mut SslContextBuilder| {
            server.cert_store_mut().add_cert(authority.clone()).unwrap();
            server.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        };
        let last_seen = Arc::new(Mutex::new(Vec::new()));
        let seen = last_seen.clone();
        let server = tls_seen(&[&Spec::new(&[NAME]).signed_by(&root)], asks, move |ssl| {
            *seen.lock().unwrap() = ssl.peer_certificate().unwrap().to_der().unwrap();
        });
        let address = serve(Arc::new(server));
        files.put("root.pem", root.pem());
        put_identity(&files, &identity());
        let config = TlsConfig::builder()
            .backend(backend)
            .root_pem_file(files.path("root.pem"))
            .identity_pem_files(files.path("identity.pem"), files.path("identity.pem"))
            .observers(Observers::new(told.clone()))
            .build()
            .unwrap();
        let watch = tokio::spawn(config.watch(OFTEN));
        let calls: Vec<_> = (0..TASKS)
            .map(|_| {
                let config = config.clone();
                tokio::spawn(async move {
                    let mut stream = None;
                    for i in 0..CALLS {
                        // A new connection now and then, as when the old ones are retired.
                        if i % 20 == 0 {
                            stream = Some(connect(config.clone(), address, NAME).await.unwrap());
                        }
                        echo(stream.as_mut().unwrap()).await.unwrap();
                    }
                })
            })
            .collect();
        let mut newest = None;
        for rotation in 1..=20 {
            if rotation == 10 {
                files.put("identity.pem", "certificates are due on Monday");
                until(|| told.failed() == 1).await;
            } else {
                let next = identity();
                put_identity(&files, &next);
                until(|| told.reloaded() == rotation - usize::from(rotation > 10)).await;
                newest = Some(next.x509.to_der().unwrap());
            }
        }
        for call in calls {
            call.await.unwrap();
        }
        call(config.clone(), address, NAME).await.unwrap();
        assert_eq!(Some(&*last_seen.lock().unwrap()), newest.as_ref(), "new handshakes use what is new");
        assert_eq!((told.reloaded(), told.failed()), (19, 1), "each once");
        assert!(told.failed.lock().unwrap()[0].contains("no PEM certificate"));
        drop(config);
        tokio::time::timeout(Duration::from_secs(5), watch).await.expect("it ends with the configuration").unwrap();
    }
}

#[tokio::test]
async fn new_roots_are_used_by_new_handshakes_and_open_connections_stay() {
    for backend in backends() {
        let (files, old, new) = (names(backend, "roots"), Spec::ca("old").self_signed(), Spec::ca("new").self_signed());
        let [at_old, at_new] =
            [&old, &new].map(|root| serve(Arc::new(tls(&[&Spec::new(&[NAME]).signed_by(root)], |_| {}))));
        files.put("root.pem", old.pem());
        let config = TlsConfig::builder().backend(backend).root_pem_file(files.path("root.pem")).build().unwrap();
        let clone = config.clone();
        let mut open = connect(config.clone(), at_old, NAME).await.unwrap();
        let error = call(config.clone(), at_new, NAME).await.unwrap_err();
        assert_eq!(TlsErrorKind::of(&error), Some(TlsErrorKind::UnknownIssuer));
        assert!(!config.reload().unwrap(), "nothing is new");
        files.put("root.pem", new.pem());
        assert!(config.reload().unwrap());
        call(clone.clone(), at_new, NAME).await.unwrap();
        call(clone, at_old, NAME).await.unwrap_err();
        echo(&mut open).await.unwrap();
    }
}

#[tokio::test]
async fn a_configuration_is_replaced_by_its_handle_and_stays_when_that_is_bad() {
    for backend in backends() {
        let [old, new] = ["old", "new"].map(|name| Spec::ca(name).self_signed());
        let at_new = serve(Arc::new(tls(&[&Spec::new(&[NAME]).signed_by(&new)], |_| {})));
        let trusting = |root: &Cert| TlsConfig::builder().backend(backend).root_pem(root.pem());
        let config = trusting(&old).build().unwrap();
        config.replace(trusting(&new)).unwrap();
        call(config.clone(), at_new, NAME).await.unwrap();
        config.replace(trusting(&old).identity_pem("", "")).unwrap_err();
        call(config, at_new, NAME).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_gone_for_a_while_is_told_of_once_and_changes_nothing() {
    let (files, told, root) = (Files::new("gone"), Arc::new(Told::default()), Spec::ca("root").self_signed());
    files.put("root.pem", root.pem());
    let config = TlsConfig::builder()
        .root_pem_file(files.path("root.pem"))
        .observers(Observers::new(told.clone()))
        .build()
        .unwrap();
    let watch = tokio::spawn(config.watch(OFTEN));
    std::fs::remove_file(files.path("root.pem")).unwrap();
    until(|| told.failed() == 1).await;
    sleep(20 * OFTEN).await;
    files.put("root.pem", root.pem());
    sleep(20 * OFTEN).await;
    assert_eq!((told.failed(), told.reloaded()), (1, 0), "it is back as it was");
    files.put("root.pem", Spec::ca("other").self_signed().pem());
    until(|| told.reloaded() == 1).await;
    watch.abort();
}

#[tokio::test]
async fn what_was_bad_for_a_while_is_taken_once_it_is_good() {
    let (files, told, root) = (Files::new("early"), Arc::new(Told::default()), Spec::ca("root").self_signed());
    let identity = || Spec::new(&["client"]).for_clients();
    put_identity(&files, &identity().signed_by(&root));
    let config = TlsConfig::builder()
        .root_pem(root.pem())
        .identity_pem_files(files.path("identity.pem"), files.path("identity.pem"))
        .observers(Observers::new(told.clone()))
        .build()
        .unwrap();
    let watch = tokio::spawn(config.watch(OFTEN));
    // Another machine's clock is ahead of ours by two seconds.
    put_identity(&files, &identity().seconds(2, 1_000).signed_by(&root));
    until(|| told.failed() == 1).await;
    until(|| told.reloaded() == 1).await;
    assert_eq!(told.failed(), 1, "told of once");
    watch.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replaces_a_configuration_is_not_undone_by_a_reload_that_was_under_way() {
    let (files, [old, new]) = (Files::new("undone"), ["old", "new"].map(|name| Spec::ca(name).self_signed()));
    let at_new = serve(Arc::new(tls(&[&Spec::new(&[NAME]).signed_by(&new)], |_| {})));
    for round in 0..20 {
        files.put("root.pem", old.pem());
        let config = TlsConfig::builder().root_pem_file(files.path("root.pem")).build().unwrap();
        files.put("root.pem", [old.pem(), Spec::ca("more").self_signed().pem()].concat());
        let (reloads, clone) = (Arc::new(std::sync::Barrier::new(2)), config.clone());
        let starts = reloads.clone();
        let reload = tokio::task::spawn_blocking(move || {
            starts.wait();
            clone.reload()
        });
        reloads.wait();
        config.replace(TlsConfig::builder().root_pem(new.pem())).unwrap();
        reload.await.unwrap().unwrap();
        call(config.clone(), at_new, NAME).await.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        assert!(!config.reload().unwrap(), "it is of what replaced it");
    }
}

#[tokio::test]
async fn what_is_weakened_is_told_of_at_every_build() {
    for backend in backends() {
        let told = Arc::new(Told::default());
        let builder = TlsConfig::builder().backend(backend).observers(Observers::new(told.clone()));
        let nobody = serve(Arc::new(tls(&[&Spec::new(&["other.test"]).self_signed()], |_| {})));
        let config = builder.clone().danger_accept_invalid_certs(true).build().unwrap();
        call(config, nobody, NAME).await.unwrap();
        let root = Spec::ca("root").self_signed();
        let other = serve(Arc::new(tls(&[&Spec::new(&["other.test"]).signed_by(&root)], |_| {})));
        let any_name = builder.root_pem(root.pem()).danger_accept_invalid_names(true).build().unwrap();
        call(any_name.clone(), other, NAME).await.unwrap();
        let error = call(any_name, nobody, NAME).await.unwrap_err();
        assert_eq!(TlsErrorKind::of(&error), Some(TlsErrorKind::UnknownIssuer), "all but the name is verified");
        assert_eq!(told.weakened.load(Ordering::Relaxed), 2);
    }
}
