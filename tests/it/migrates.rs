//! The schema comes once, whoever brings it; its partitions come and go with the days; a broker that was set up
//! differently is left as it is.

mod partitions;
mod replicas;
mod schemas;
mod topology;
