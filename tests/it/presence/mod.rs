//! Presence: `contract` holds both stores to one suite, `redis` breaks a real Redis under one, `model` compares the actor with a
//! few lines of plain code while its store fails, `actor` is what it promises with times, `cluster` is two nodes and a death.

//mod actor;
//mod cluster;
mod contract;
//mod faulty;
mod kit;
//mod model;
mod redis;
