//! Actors of a running node die under load: whoever is connected loses nothing.

use std::sync::Arc;

use dzvin::{
    app::{App, AppError},
    platform::{
        cli::{Exit, Failure},
        config,
    },
};
use dzvin_actors::supervise::{Budget, Cause, ChildSpec};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::oneshot;

use crate::support::{eventually::eventually, hub::World, node::Followers};

async fn app(world: &World) -> App {
    let path = world.unstarted("a").config.clone();
    let config = config::load(Some(&path)).expect("configuration");
    let verifier = Arc::new(dzvin::identity::verifier(&config.identity).expect("verifier"));
    App::start(&config, verifier).await.expect("starts")
}

/// An actor that does nothing.
struct Idle;

impl Actor for Idle {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// Rule 9: past the budget the process stops in order and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_cannot_be_kept_alive_ends_the_node() {
    let world = World::new(1, false).await;
    let app = app(&world).await;
    let (root, internal) = (app.supervisor().clone(), app.internal_address);
    let running = tokio::spawn(app.run(std::future::pending()));
    let fragile = ChildSpec::new("fragile", |spawner| async move {
        Ok(Actor::spawn_linked(None, Idle, (), spawner.supervisor).await?.0.get_cell())
    });
    root.start(fragile.budget(Budget { restarts: 0, ..Budget::default() })).await.expect("starts");
    assert!(root.kill("fragile").await);
    let error = running.await.expect("joined").expect_err("it ends");
    assert!(
        matches!(&error, AppError::Meltdown(it) if (&*it.child, it.deaths, it.cause) == ("fragile", 1, Cause::Kill)),
        "{error:?}"
    );
    let failure = Failure::from(error);
    assert_eq!((failure.exit, failure.exit as u8), (Exit::Internal, 70));
    assert!(failure.to_string().contains("fragile ended 1 times"), "{failure}");
    assert!(tokio::net::TcpStream::connect(internal).await.is_err(), "everything is stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_that_are_killed_under_load_lose_nothing() {
    let mut random = StdRng::seed_from_u64(5);
    let world = World::new(50, false).await;
    let app = app(&world).await;
    let (root, address) = (app.supervisor().clone(), app.address);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(app.run(async { drop(stopped.await) }));

    let mut followers = Followers::start(&format!("http://{address}"), 6, &[]).await;
    let play = dzvin_sandbox::Play { rate_per_s: 200.0, collection: Some("procedure".to_owned()), seed: 7 };
    world.sandbox.control().play(&play).expect("plays");
    let children = ["topics", "shard-0", "bus-reader", "relay", "mirror-procedure"];
    for round in 0..15 {
        let at = followers.progress().await.into_iter().min().unwrap_or(0);
        let further = random.random_range(1..40);
        followers.reach(&format!("changes before kill {round}"), at + further).await;
        let victim = children[round % children.len()];
        eventually(&format!("{victim} is alive, to be killed"), async || root.kill(victim).await).await;
    }
    let at = followers.progress().await.into_iter().max().unwrap_or(0);
    followers.reach("all goes on", at + 101).await;
    world.sandbox.control().play(&dzvin_sandbox::Play { rate_per_s: 0.0, ..play }).expect("stops");
    let report = followers.finish().await;
    println!("15 deaths of actors: {report}");
    for key in ["lost", "doubled", "behind", "differences"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
    assert!(report["received"].as_u64().expect("a count") > 0, "{report}");
    stop.send(()).expect("runs");
    running.await.expect("joined").expect("an orderly end");
}
