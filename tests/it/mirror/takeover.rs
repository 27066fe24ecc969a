//! A hub dies, another one takes the Mirror.
