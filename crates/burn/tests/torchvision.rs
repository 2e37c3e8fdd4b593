//! Every architecture of the zoo against torchvision, on the CPU.

use engraft_burn::BurnEngine;

engraft_engine::test_networks!(BurnEngine::cpu());
