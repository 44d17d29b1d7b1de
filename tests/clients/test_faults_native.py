"""The faults of pusher_faults.py, with webhooks in the native format."""
from harness import Case
from pusher_faults import Faults, NativeReceiver


class FaultsWithNativeWebhooks(Faults, Case):
    RECEIVER = NativeReceiver
    # What happens to Redis in the first round, and in the second one.
    REDIS_GOES = ["killed", "frozen"]
