//! Holds nothing; the tests of the composed stack are in `it/`.
