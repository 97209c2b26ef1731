"""Renews a lease three times in its length by the command that Airflow's tasks run, until killed.

usage: python -m tests.integration.chaos.renewer STATE_DIR MODEL RELEASE SECONDS
"""

from __future__ import annotations

import sys
import time

from tasks.rollout.renew_lease import main

if __name__ == "__main__":
    while True:
        code = main(sys.argv[1:])
        print(code, flush=True)
        time.sleep(float(sys.argv[4]) / 3)
