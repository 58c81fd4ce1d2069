//! The schema is made once, whichever process migrates and however often it is killed; indexes are added while others write;
//! partitions come and go with the days; a broker that was set up differently is left as it is.

mod check;
mod indexes;
mod killed;
mod partitions;
mod replicas;
mod schema_file;
mod schemas;
mod topology;
