// Loaded with `node -r`: the hosts of pusher.com, which the suites of the vendor contain, are this machine.
"use strict";
const dns = require("node:dns");

const lookup = dns.lookup;
dns.lookup = (host, ...rest) => lookup(host.endsWith(".pusher.com") ? "127.0.0.1" : host, ...rest);
