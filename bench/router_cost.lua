-- Asks one after another, each when it is due, on one connection: `wrk --threads 1 --connections 1`.
-- BENCH_RPS, BENCH_REQUESTS, BENCH_SEED; BENCH_FILE gets the seconds of each answer, a line each.
local ffi = require("ffi")
ffi.cdef([[
typedef struct { long s; long ns; } headrace_time;
int clock_gettime(int, headrace_time *);
]])
local MONOTONIC, USERS, BODY = 1, 20000, string.rep("x", 1024)
local rps, number = tonumber(os.getenv("BENCH_RPS")), tonumber(os.getenv("BENCH_REQUESTS"))
local clock = ffi.new("headrace_time")
local took, asked, started, due, behind, sent = {}, 0, nil, 0, false, 0
math.randomseed(tonumber(os.getenv("BENCH_SEED")))

local function now()
  ffi.C.clock_gettime(MONOTONIC, clock)
  return tonumber(clock.s) + tonumber(clock.ns) / 1e9
end

function delay() -- in whole milliseconds for wrk: a request may leave a part of one early
  local moment = now()
  started = started or moment
  due = started + asked / rps
  behind = moment > due -- the one before took long: that counts here too
  return math.max(0, (due - moment) * 1000)
end

function request()
  if started then asked = asked + 1 end -- wrk looks at one request that it does not send
  local headers = { Host = "shop.headrace", ["x-user-id"] = "u" .. math.random(0, USERS - 1) }
  local text = wrk.format("POST", "/v1/models/shop:predict", headers, BODY)
  sent = behind and due or now()
  return text
end

function response(status)
  took[#took + 1] = status == 200 and string.format("%.6f", now() - sent) or "status " .. status
  if #took == number then
    assert(asked == number, "expected one answer to each request")
    took[#took + 1] = string.format("rps %.3f", number / (now() - started))
    local file = assert(io.open(os.getenv("BENCH_FILE"), "w"))
    file:write(table.concat(took, "\n"), "\n")
    file:close()
    os.exit(0) -- wrk itself would wait until its time is over
  end
end
