//! Entities in the database and over REST.
