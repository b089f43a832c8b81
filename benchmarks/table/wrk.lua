-- The requests of a workload for wrk, and its result as one line of JSON. From the environment: BENCH_RECORDS (a file, see
-- records.py), BENCH_PATH, BENCH_HEADS (own or fixed), BENCH_PADS, BENCH_FRESH (1: a new connection for each request), BENCH_SEED.
-- With heads of their own each request has a trace id and an inference id that no other has, and the next of the bodies.
local heads, bodies, lengths = {}, {}, {}
local prefix = "POST " .. os.getenv("BENCH_PATH") .. " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
if os.getenv("BENCH_FRESH") == "1" then prefix = prefix .. "Connection: close\r\n" end
local file = assert(io.open(os.getenv("BENCH_RECORDS"), "rb"))
while true do
  local line = file:read("*l")
  if not line then break end
  local head, body = line:match("^(%d+) (%d+)$")
  heads[#heads + 1] = prefix .. (file:read(tonumber(head)) or "")
  bodies[#bodies + 1] = tonumber(body) > 0 and file:read(tonumber(body)) or ""
  lengths[#lengths + 1] = tonumber(body)
end
file:close()

local own, pads, count = os.getenv("BENCH_HEADS") == "own", tonumber(os.getenv("BENCH_PADS")), 0
local seed = tonumber(os.getenv("BENCH_SEED"))
local fixed = heads[1] .. "Content-Length: " .. lengths[1] .. "\r\n\r\n" .. bodies[1]
local blanks = {}
for i = 0, pads - 1 do blanks[i] = string.rep(" ", i) end

request = function()
  if not own then return fixed end
  count = count + 1
  local i = count % #bodies + 1
  local pad = pads > 0 and (count * 7919) % pads or 0
  local ids = string.format("X-Amzn-Trace-Id: Root=1-%08x-%012x%012x\r\nX-Amzn-SageMaker-Inference-Id: %08x-%04x-4000-8000-%012x\r\n",
    1700000000 + seed, seed, count * 7919, seed, count % 65536, count)
  return heads[i] .. ids .. "Content-Length: " .. (lengths[i] + pad) .. "\r\n\r\n" .. bodies[i] .. (pad > 0 and blanks[pad] or "")
end

done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nWRK {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"non2xx":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max, e.status,
    e.connect + e.read + e.write + e.timeout))
end
