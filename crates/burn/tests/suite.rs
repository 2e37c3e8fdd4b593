//! The suite that every engine passes, on the CPU.

use engraft_burn::BurnEngine;

engraft_engine::test_running!(BurnEngine::cpu());
engraft_engine::test_training!(BurnEngine::cpu());
