"""Nothing to collect where TRL is too old for any of it."""

from versions import TRL_CAN_STEER_ROLLOUTS

collect_ignore_glob = [] if TRL_CAN_STEER_ROLLOUTS else ["test_*.py"]
