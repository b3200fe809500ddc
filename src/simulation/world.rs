//! What happens around the clients: the recurring work, and faults.

use std::rc::Rc;
use std::sync::Arc;

use super::client;
use super::postgres::Death;
use super::stage::Stage;
use crate::net::simulated::{self, Servers};
use crate::net::{timer, world};
use crate::pool::control::Pauser;
use crate::pooler;

/// Begins all that runs.
pub(super) fn open(stage: &Rc<Stage>) {
    world::spawn(pooler::tick(Arc::clone(&stage.context)));
    let clients = 1 + stage.below(12);
    stage.clients.set(u32::try_from(clients).unwrap());
    for _ in 0..clients {
        stage.spawn(client::run(Rc::clone(stage)));
    }
    if stage.faults {
        stage.spawn(faults(Rc::clone(stage)));
    }
}

async fn faults(stage: Rc<Stage>) {
    while !stage.is_stopping() {
        timer::sleep(stage.time(300_000)).await;
        match stage.below(10) {
            0..3 => kill(&stage),
            3 => {
                stage.note(|| "servers refuse connections".into());
                simulated::set_servers(Servers::Refuse);
                timer::sleep(stage.time(1_000_000)).await;
                simulated::set_servers(Servers::Accept);
            }
            4 => {
                let pool = stage.pool();
                stage.note(|| format!("PAUSE {}", pool.name));
                pool.pause(Pauser::Database);
                timer::sleep(stage.time(1_000_000)).await;
                stage.note(|| format!("RESUME {}", pool.name));
                pool.resume(Pauser::Database);
            }
            5 => {
                let pool = stage.pool();
                stage.note(|| format!("RECONNECT {}", pool.name));
                pool.reconnect();
            }
            6 => {
                stage.note(|| "PAUSE".into());
                stage.context.pools.pause();
                timer::sleep(stage.time(1_000_000)).await;
                stage.note(|| "RESUME".into());
                stage.context.pools.resume();
            }
            7 => stage.end_one(),
            _ => {
                let size = u32::try_from(1 + stage.below(5)).unwrap();
                stage.note(|| format!("pool_size = {size}"));
                stage.resize(size);
            }
        }
    }
}

/// Ends any server.
fn kill(stage: &Stage) {
    let backends: Vec<_> = stage.backends.borrow().values().cloned().collect();
    if !backends.is_empty() {
        let chosen = usize::try_from(stage.below(backends.len() as u64)).unwrap();
        backends[chosen].die([Death::Fatal, Death::Closed, Death::Reset][usize::try_from(stage.below(3)).unwrap()]);
    }
}
