from Testing.server.fake_engines import FakeEngines
from Testing.server.server_world import world
def test_x(tmp_path):
    with world(tmp_path, engines=FakeEngines(at_once=True)) as w:
        v = w.volume()
        r = w.ask(v, "liver", "nothing")
        print(r.json())
        j = w.wait(r.json()["job_id"])
        print(j)
        for p in ["segments/0/mask","segmentation","report", "segmentation?format=zip", "confidence","segmentation?format=png"]:
            x = w.client.get(f"/v1/jobs/{j['job_id']}/{p}")
            print(p, x.status_code, x.headers, len(x.content), x.text[:100] if x.status_code>=400 else "")
        for p in ["/health","/metrics","/v1/capabilities","/v1/models","/v1/concepts?q=kid","/openapi.json","/","/v1/nope"]:
            x = w.client.get(p); print(p, x.status_code, x.text[:300])
