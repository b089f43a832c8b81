-- A POST of BODY (a file) as CTYPE for wrk; with VARY=1 a trace id and an inference id of its own in each request, as platforms
-- send them. Prints one RESULT line of JSON.
local file = assert(io.open(os.getenv("BODY"), "rb"))
local body = file:read("*a")
file:close()
local vary, count, fixed = os.getenv("VARY") == "1", 0, nil
local headers = {["Content-Type"] = os.getenv("CTYPE")}

request = function()
  if not vary then
    fixed = fixed or wrk.format("POST", nil, headers, body)
    return fixed
  end
  count = count + 1
  headers["X-Amzn-Trace-Id"] = string.format("Root=1-%08x-%024x", 1700000000 + count, count * 7919)
  headers["X-Amzn-SageMaker-Inference-Id"] = string.format("%08x-aaaa-bbbb-cccc-%012x", count, count)
  return wrk.format("POST", nil, headers, body)
end

done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\nRESULT {"requests":%d,"us":%d,"p50":%d,"p99":%d,"errors":%d}\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.status + e.connect + e.read + e.write + e.timeout))
end
