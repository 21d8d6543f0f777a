import gevent.monkey; gevent.monkey.patch_all()
import sys
from geventws import Broadcast
from geventws.testing.broadcast import Site
url = sys.argv[1] if len(sys.argv)>1 else "memory://"
site = Site(url, True)
p = site.process(); q = p if url.startswith("mem") else site.process()
a=site.connect(); s=p.subscribe("room",a.ws,member={"name":"Ann"})
print(a.receive(1), p.members("room"))
b=site.connect(); t=q.subscribe("room",b.ws,member={"name":"Bob"},key="bob")
print(b.receive(1), a.receive(1))
c=site.connect(); u=p.subscribe("room",c.ws,member={"name":"Bob"},key="bob")
print(c.receive(1))
u.close(); t.close()
print(a.receive(1), q.members("room"))
d=site.connect(); u=p.subscribe("room",d.ws,member={"name":"Dan"},key="dan")
print(a.receive(1), d.receive(1))
d.client.close()
print(a.receive(1))
s.close(); print(p.members("room"), p._presence._rooms)
