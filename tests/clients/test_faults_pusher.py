"""The faults of pusher_faults.py, with webhooks in Pusher's format."""
from harness import Case
from pusher_faults import Faults, PusherReceiver


class FaultsWithPusherWebhooks(Faults, Case):
    RECEIVER = PusherReceiver
    # What happens to Redis in the first round, and in the second one.
    REDIS_GOES = ["frozen", "killed"]
